"""What embedded brokers raise; apart from the verbs, so that nothing imports in a ring."""

from eventbus_sync.errors import EventBusError


class BrokerNotInstalled(EventBusError):
    """No broker program was found: pip install 'eventbus-sync[brokers]'."""

    default_code = "broker_not_installed"


class BrokerStartFailed(EventBusError):
    """
    The broker program ended, or did not answer in time; its log is in the message.

    Attributes:
        port_taken: whether somebody else holds the port, so that another one may do.
    """

    default_code = "broker_start_failed"

    def __init__(self, message: str = "", *, port_taken: bool = False) -> None:
        super().__init__(message)
        self.port_taken = port_taken


class NotPossibleHere(EventBusError):
    """Not every kind of embedded broker can do that."""

    default_code = "not_possible_here"
