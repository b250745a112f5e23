"""``python -m cvrnet``, and ``accelerate launch -m cvrnet``: the command line."""

from cvrnet_cli import main

if __name__ == "__main__":
    main()
