"""Merge the text that a push writes with the text in the repository: parts that somebody edited stay.

Each part that the library writes is between marks. The opening mark holds a hash of the part, so an edited part is
recognised and stays as it is. The card's metadata is merged key by key: a comment in the card holds the hash of each
value that the library wrote.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from huggingface_hub import CardData, RepoCard
from yaml import YAMLError

from cvrnet.errors import UserError
from cvrnet.runs.layout import CARD

_PART = re.compile(
    r"(?P<open><!-- |# )cvrnet:(?P<name>[a-z]+)(?: (?P<hash>[0-9a-f]{8}))?(?P<close>(?: -->)?)\n"
    r"(?P<text>.*?)(?P<end>(?P=open)/cvrnet:(?P=name)(?P=close))",
    re.DOTALL,
)
_VALUE = re.compile(r"([\w-]+)=([0-9a-f]{8})")
_LICENSE = ("license", "license_name", "license_link")
_RESULTS = "model-index"
_ALL = "without marks"


def mark(text: str) -> str:
    """Return a text with the hash of each part in its opening mark (``<!-- cvrnet:NAME -->`` or ``# cvrnet:NAME``)."""
    return _PART.sub(
        lambda m: f"{m['open']}cvrnet:{m['name']} {_hash(m['text'])}{m['close']}\n{m['text']}{m['end']}", text
    )


def mark_card(text: str) -> str:
    """Return a card with the hash of each part in its opening mark, and hashes of the metadata in a comment at the end.

    See `mark`.
    """
    data = RepoCard(text).data.to_dict()
    metrics = [
        metric for entry in data.get(_RESULTS, []) for result in entry["results"] for metric in result["metrics"]
    ]
    written = [*data.items(), *(("metric", _measured(metric)) for metric in metrics)]
    values = " ".join(f"{key}={_hash(value)}" for key, value in written)
    return mark(f"{text}\n<!-- cvrnet:metadata -->\n<!-- {values} -->\n<!-- /cvrnet:metadata -->\n")


def merge_file(
    name: str, there: bytes | None, ours: bytes, *, license: str = "", renew: bool = False
) -> tuple[bytes, list[str]]:
    """Merge `ours` with the repository's file `there`; return the result, and the names of the edited parts in it.

    With `renew`, the library's parts are replaced even if somebody edited them. Files and metadata without the
    library's marks (comments around each part) are then replaced, too, and so are files that cannot be read. `license`
    is the license that the user chose; if it is "", the license in the existing card stays.

    Raises:
        UserError: Without `renew`: the repository's file is not UTF-8, or it is a card whose metadata cannot be read.
    """
    if there is None:
        return ours, []
    try:
        if name == CARD:
            text, kept = _merge_card(there.decode("utf-8-sig"), ours.decode(), license, renew)
        else:
            text, kept = _merge_text(there.decode(), ours.decode(), renew)
    except (YAMLError, ValueError, TypeError, LookupError, AttributeError) as error:
        if renew:
            return ours, []
        reason = " ".join(str(error).split())[:100]
        raise UserError(
            f"the repository's {name} cannot be read ({reason}); repair it, or replace it with --overwrite"
        ) from error
    return text.encode(), kept


def _merge_text(there: str, ours: str, renew: bool) -> tuple[str, list[str]]:
    unix = there.replace("\r\n", "\n")
    parts = {match["name"]: match[0] for match in _PART.finditer(ours)}
    kept = []

    def renewed(match: re.Match[str]) -> str:
        if not renew and _hash(match["text"]) != match["hash"]:
            kept.append(match["name"])
            return match[0]
        return parts.get(match["name"], "")

    if not _PART.search(unix):
        return (ours, []) if renew or not there.strip() else (there, [_ALL])
    text = _PART.sub(renewed, unix)
    return (there if text == unix else text), kept


def _merge_card(there: str, ours: str, license: str, renew: bool) -> tuple[str, list[str]]:
    old, new = RepoCard(there), RepoCard(ours)
    text, kept = _merge_text(old.text, new.text, renew)
    record = next((match["text"] for match in _PART.finditer(old.text) if match["name"] == "metadata"), "")
    written = _VALUE.findall(record)
    before, after = old.data.to_dict(), new.data.to_dict()
    metadata = _merge_values(before, after, dict(written), renew and not written)
    metadata = _merge_license(metadata, before, license)
    metrics = {value for key, value in written if key == "metric"}
    metadata.pop(_RESULTS, None)
    if results := _merge_results(before.get(_RESULTS, []), after.get(_RESULTS, []), metrics):
        metadata[_RESULTS] = results
    if metadata == before:  # keep the text of the metadata, with its comments
        return there.removesuffix(old.text) + text, kept
    old.data, old.text = CardData(**metadata), text
    return str(old), kept


def _merge_values(
    there: Mapping[str, Any], ours: Mapping[str, Any], written: Mapping[str, str], renew: bool
) -> dict[str, Any]:
    """Return the existing metadata with the library's new values; other people's changes and removals stay."""
    merged = dict(there)
    for key in dict.fromkeys((*written, *ours)):
        untouched = _hash(there[key]) == written.get(key) if key in there else key not in written
        if not (untouched or renew):
            continue
        if key in ours:
            merged[key] = ours[key]
        else:
            merged.pop(key, None)
    if renew:  # tags that people added stay
        merged["tags"] = list(dict.fromkeys([*ours["tags"], *(there.get("tags") or ())]))
    return merged


def _merge_license(metadata: dict[str, Any], there: Mapping[str, Any], license: str) -> dict[str, Any]:
    if license and license != there.get("license"):
        return {key: value for key, value in metadata.items() if key not in _LICENSE} | {"license": license}
    return {**metadata, **{key: there[key] for key in _LICENSE if key in there}}


def _merge_results(there: Sequence[Any], ours: Sequence[Any], written: Collection[str]) -> list[dict[str, Any]]:
    """Return the model-index with the library's new metrics, and with the metrics that others added or changed."""

    def key(entry: Any, result: Any, metric: Any) -> tuple[Any, ...]:
        return entry["name"], result["dataset"], _measured(metric)[:2]

    own = [key(entry, result, m) for entry in ours for result in entry["results"] for m in result["metrics"]]
    merged = [dict(entry) for entry in ours]
    for entry in there:
        others = []
        for result in entry["results"]:
            others_metrics = (m for m in result["metrics"] if _hash(_measured(m)) not in written)
            metrics = [m for m in others_metrics if key(entry, result, m) not in own]
            others += [{**result, "metrics": metrics}] if metrics else []
        if merged and entry["name"] == merged[0]["name"]:
            merged[0]["results"] = merged[0]["results"] + others
        elif others:
            merged.append({**entry, "results": others})
    return merged


def _measured(metric: Mapping[str, Any]) -> list[Any]:
    return [metric["type"], metric.get("name"), metric["value"]]


def _hash(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
