# SPDX-License-Identifier: GPL-2.0-or-later
"""What lies at an address, as a clause behind it; and how much of that was read.  Pure."""

from mptrace.outcomes.places import Place
from mptrace.reporting.text.layout import Numbers, item, many
from mptrace.units import format_count


def where(place: Numbers | None, mapping: str | None = None) -> str:
    """`` in heap``; ", what lies there is unknown: ..." where that is said by the recording.

    :param place: what `Place.as_dict` gives; None of no address.
    :param mapping: of the driver's target, which knew its own at the start.
    """
    if place is not None and place["what"]:
        return f" in {place['what']}"
    if mapping:
        return f" in {mapping}"
    return ""


def why_unknown(place: Numbers | None, mapping: str | None, gap: str) -> str:
    """Why it is not known what lies at an address: a clause.

    It is "" where it is known, of no address, and where a whole recording lacks it (``gap``).
    """
    if place is None or place["what"] or mapping or place["why_unknown"] == gap:
        return ""
    return f"what lies there is unknown: {place['why_unknown']}"


def where_of(place: Place, mapping: str | None = None) -> str:
    """The same as `where`, of a value of `lying`."""
    return where(place.as_dict(), mapping)


def read(profile: Numbers) -> list[str]:
    """Of how many processes the mappings were read, and what is missing."""
    found = profile["mappings"]
    if found["gap"]:
        return item("mappings", f"what lies at an address is unknown: {found['gap']}")
    missing = [
        f"{format_count(found[name])} {words}"
        for name, words in (
            ("ended", "had ended before"),
            ("denied", "could not be read"),
            ("left_out", "left out or cut, by the bounds of what is read"),
        )
        if found[name]
    ]
    if found["more"]:
        missing.append("others left out, beyond how many are remembered")
    text = f"of {many(found['processes'], 'process', 'processes')} read"
    return item("mappings", "; ".join([text, *missing]))
