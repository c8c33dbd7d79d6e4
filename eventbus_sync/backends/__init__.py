"""
The back ends: the only modules that import a driver.

``base.py`` holds the contract, one file each keeps it: ``memory.py``, ``kafka.py``,
``nats.py``. A driver is imported when the first bus for it is started.
"""
