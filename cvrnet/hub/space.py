"""A run's page as a Hugging Face Space: the files, and their way to the Hub."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from huggingface_hub import CommitOperationAdd, HfApi, SpaceCardData

from cvrnet.errors import UserError
from cvrnet.runs.hub_download import parse_reference
from cvrnet.runs.hub_errors import hub_errors, with_retries

APP, CARD, REQUIREMENTS = "app.py", "README.md", "requirements.txt"
_GRADIO = "6.31.0"  # where it is not installed: the oldest that the page runs on
_MARK = "from cvrnet.demo import serve"

_PROGRAM = '''\
"""The page of {repo}: cvrnet's demo."""

import os

from cvrnet.demo import serve

if __name__ == "__main__":
    host, port = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), os.environ.get("GRADIO_SERVER_PORT", "7860")
    serve("hf-hub:{repo}", host=host, port=int(port))
'''

_TEXT = """\
The page of the model [{repo}](https://huggingface.co/{repo}): probabilities and how sure they are, each head's own, and
where the network looked. `cvrnet demo hf-hub:{repo}` shows the same on your own machine.

> **Research software, not a medical device.** It must not be used for diagnosis or for any decision about a patient.
> Images that are sent here go to Hugging Face's servers: send none of a patient. They are deleted once answered.

If the model is private, the Space needs a token that may read it: *Settings, Variables and secrets, New secret*, with
the name `HF_TOKEN`.
"""


@dataclass(frozen=True)
class PushedSpace:
    """What was pushed.

    Attributes:
        url: The Space's page.
        private: Whether only its owner can see it.
        commit: Of its ``main``.
    """

    url: str
    private: bool
    commit: str


def space_files(repo: str, license: str = "apache-2.0") -> dict[str, bytes]:
    """The files of a Space that serves a model's page.

    Args:
        repo: The model's, ``user/repo``.
        license: The Hub's name of the license.
    """
    card = SpaceCardData(
        title=f"{repo.partition('/')[2]}: chest radiographs",
        emoji="🫁",
        colorFrom="blue",
        colorTo="gray",
        sdk="gradio",
        sdk_version=_gradio_version(),
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        app_file=APP,
        pinned=False,
        license=license,
        models=[repo],
        tags=["cvrnet", "chest-x-ray", "medical"],
    )
    return {
        APP: _PROGRAM.format(repo=repo).encode(),
        # Without the index of CPU builds, PyTorch would bring gigabytes for GPUs that a free Space has not.
        REQUIREMENTS: (
            f"--extra-index-url https://download.pytorch.org/whl/cpu\ncvrnet[demo,dicom]=={version('cvrnet')}\n"
        ).encode(),
        CARD: f"---\n{card.to_yaml()}\n---\n\n# {repo}\n\n{_TEXT.format(repo=repo)}".encode(),
    }


def push_space(repo: str, *, public: bool = False, license: str = "apache-2.0", overwrite: bool = False) -> PushedSpace:
    """Push a model's page to the Space of the same name; private unless `public`.

    A Space that is there keeps its settings and other files; the Hub builds it anew.

    Args:
        repo: The model's, ``user/repo``.
        public: Let everybody see it.
        license: The Hub's name of the license.
        overwrite: Replace another program that the Space holds.

    Raises:
        UserError: It cannot be pushed, or holds another program.
    """
    repo, _ = parse_reference(repo)
    files = space_files(repo, license)
    api = HfApi(library_name="cvrnet", library_version=version("cvrnet"))
    with hub_errors(f"cannot push the Space {repo}", lambda: "it is as it was"):
        return _push(api, repo, files, public, overwrite)


def _push(api: HfApi, repo: str, files: Mapping[str, bytes], public: bool, overwrite: bool) -> PushedSpace:
    url = with_retries(
        lambda: api.create_repo(repo, repo_type="space", space_sdk="gradio", private=not public, exist_ok=True)
    )
    info = with_retries(lambda: api.space_info(repo))
    if not info.private and not public:
        raise UserError(f"the Space {repo} is public; --public pushes to it all the same, or choose another repository")
    there = {sibling.rfilename for sibling in info.siblings or ()}
    if APP in there and not overwrite and _MARK not in _read(api, repo, str(info.sha)):
        raise UserError(f"the Space {repo} holds another program; --overwrite replaces it")
    commit = api.create_commit(
        repo,
        [CommitOperationAdd(name, content) for name, content in files.items()],
        commit_message="cvrnet push --space",
        repo_type="space",
        parent_commit=info.sha,
    )
    return PushedSpace(str(url), bool(info.private), commit.oid)


def _read(api: HfApi, repo: str, commit: str) -> str:
    path = with_retries(lambda: api.hf_hub_download(repo, APP, repo_type="space", revision=commit))
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _gradio_version() -> str:
    try:
        return version("gradio")
    except PackageNotFoundError:
        return _GRADIO
