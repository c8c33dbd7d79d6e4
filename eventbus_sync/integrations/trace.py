"""The trace context of the moment, if OpenTelemetry is in use."""

import contextlib
import sys


def current_trace() -> dict[str, str]:
    """
    Return ``traceparent`` and ``tracestate`` of the current span, or nothing.

    OpenTelemetry is not imported for it: who uses it has loaded it.
    """
    trace = sys.modules.get("opentelemetry.trace")
    found: dict[str, str] = {}
    if trace is None:
        return found
    # A broken tracer must never keep an event from being written.
    with contextlib.suppress(Exception):
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            flags = int(context.trace_flags)
            parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"
            state = context.trace_state.to_header() if context.trace_state else ""
            found["traceparent"] = parent
            if state:
                found["tracestate"] = state
    return found
