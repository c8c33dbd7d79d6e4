"""The order of events within their aggregates."""

from collections.abc import Iterator


def first_occurrences(
    stored: Iterator[tuple[str, str]],
) -> dict[str, list[str]]:
    """Return aggregate → event ids in the order in which each came first."""
    seen: dict[str, dict[str, None]] = {}
    for aggregate, event_id in stored:
        seen.setdefault(aggregate, {}).setdefault(event_id)
    return {aggregate: list(ids) for aggregate, ids in seen.items()}
