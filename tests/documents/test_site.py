"""The site builds strictly, needs nothing from elsewhere, and holds every command and every public name."""

import html
import importlib
import os
import re
import subprocess
import sys
import zlib

import pytest

from tests.support import pages

pytest.importorskip("sphinx")

PUBLIC = ["audit", "data", "encoders", "explain", "heads", "hub", "inference", "keras", "metrics", "onnx", "report"]
PUBLIC += ["figures", "scoring", "training", "workflows"]
OTHER_PROGRAMS = {"--device-modules", "--gpu_ids"}  # of timm's train.py and accelerate


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(pages.DOCS), str(folder)],
        env=os.environ | {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"},  # no network
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def inventory(site):
    """What the site describes, each ``name domain:role``."""
    listed = zlib.decompress((site / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    return {" ".join(line.split(" ")[:2]) for line in listed.splitlines()}


@pytest.mark.parametrize("module", ["cvrnet", *(f"cvrnet.{name}" for name in PUBLIC)])
def test_every_public_name_is_described(module, inventory):
    described = {entry.partition(" py:")[0] for entry in inventory if " py:" in entry}
    assert {f"{module}.{name}" for name in importlib.import_module(module).__all__} <= described


def test_no_words_of_a_field_are_shown_as_its_type(site):
    pages_of_the_api = [page.read_text(encoding="utf-8") for page in site.glob("reference/*.html")]
    assert any(">Returns<" in page for page in pages_of_the_api)  # the same markup, with another title
    assert [page for page in pages_of_the_api if ">Type<" in page] == []


def test_every_command_is_described_with_its_options_and_examples(site, inventory):
    from cvrnet_cli.commands import cli

    page = html.unescape(re.sub(r"<[^>]+>", "", (site / "reference/cli.html").read_text(encoding="utf-8")))
    for name, command in cli.commands.items():
        for parameter in (p for p in command.params if not getattr(p, "hidden", False)):
            for spelling in (*parameter.opts, *parameter.secondary_opts):
                entry = spelling if spelling.startswith("-") else parameter.human_readable_name
                assert f"cvrnet-{name}.{entry} std:cmdoption" in inventory, (name, entry)
        examples = re.findall(r"^ +((?:cvrnet|accelerate) .+)$", command.help.partition("Examples:")[2], re.MULTILINE)
        assert examples, f"cvrnet {name} --help has no examples"
        for example in examples:
            assert example in page, example


def test_every_page_is_in_the_contents(site):
    shown = set(re.findall(r'href="([^"#]+)\.html"', (site / "index.html").read_text(encoding="utf-8")))
    modules = {f"reference/{page.stem}" for page in pages.pages("reference/*.md")}  # below reference/index
    assert {str(page.relative_to(pages.DOCS).with_suffix("")) for page in pages.pages()} - modules - {"index"} <= shown


def test_nothing_comes_from_elsewhere(site):
    loads = re.compile(
        r"""<(?:script|link|img|iframe)[^>]+(?:src|href)=["'](?:https?:)?//|url\(["']?(?:https?:)?//|@import"""
    )
    for file in [*site.rglob("*.html"), *site.rglob("*.css")]:
        assert not loads.search(file.read_text(encoding="utf-8")), file


# What pages say


ALL = [pages.README, *pages.pages(), *sorted(pages.ROOT.glob("examples/*.md"))]


@pytest.mark.parametrize("page", ALL, ids=pages.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)\s#]+)", pages.prose(page)):
        path = (page.parent / target).resolve()
        assert path.exists(), target
        assert path.is_relative_to(pages.ROOT), target


@pytest.mark.parametrize("page", [pages.README, *pages.pages()], ids=pages.name)
def test_options_that_are_named_exist(page):
    every = pages.options_of() | pages.accelerate_options() | OTHER_PROGRAMS
    for code in re.findall(r"`([^`\n]+)`", pages.prose(page)):
        words = code.removeprefix("cvrnet ").split()
        if code.startswith("cvrnet ") and words[0].isupper():  # cvrnet COMMAND
            continue
        if code.startswith("cvrnet ") and "-" not in words[0][:1]:
            known = pages.options_of(pages.command_named(words))
        elif words[0] in ("python", "pip", "accelerate", "hf", "make", "tensorboard"):
            continue
        else:
            known = every
        named = {word.partition("=")[0].strip(",.…()") for word in words if re.match(r"--?[a-z]", word)}
        assert {word for word in named if word.startswith("--")} <= known, code


@pytest.mark.parametrize("page", ALL, ids=pages.name)
def test_commands_stand_in_fences(page):
    assert not re.findall(r"^(?: {4}|\t)(?:\$ )?(?:cvrnet|pip) .*", pages.prose(page), re.MULTILINE)
