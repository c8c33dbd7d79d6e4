"""Bridges to other libraries. Nothing else of eventbus_sync imports them."""
