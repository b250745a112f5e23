"""Run the command line as ``python -m cvrnet`` or ``accelerate launch -m cvrnet``."""

from cvrnet_cli import main

if __name__ == "__main__":
    main()
