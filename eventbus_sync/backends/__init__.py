"""
The back ends: the only modules that import a driver.

``base.py`` holds the contract; ``memory.py``, ``kafka/backend.py`` and
``nats/backend.py`` keep it. A driver is imported when the first bus for it is started.
"""
