"""One-line faults in what is told of events, and in the relay."""

from tests.planted.fault import Fault

LINES, PAGES, WAITING = "core/happenings.py", "hub/happenings.py", "hub/waiting.py"
FORM, FILES = "faces/relay_form.py", "faces/relay_files.py"
_LINES = ("tests/core/test_happenings.py",)
_PAGES = ("tests/hub/test_happenings.py",)
_FORM = ("tests/faces/test_relay_form.py",)
_FILES = ("tests/faces/test_relay_files.py",)

OBSERVING_FAULTS = [
    Fault(
        "a direct message is told to everybody",
        LINES,
        "    if recorded.actor != eyes.by.actor or not event.to:\n        return None\n    said = _message(",
        "    if not event.to:\n        return None\n    said = _message(",
        _LINES,
    ),
    Fault(
        "what a room hides is told",
        LINES,
        "or (place is not None and not eyes.sees(place)):",
        "or (place is not None and not place):",
        _LINES,
    ),
    Fault(
        "a hand-off is not worth keeping",
        LINES,
        '        "lease.handed_off",\n        "progress.checkpoint",',
        '        "progress.checkpoint",',
        _LINES,
    ),
    Fault(
        "a page that is full skips the line that did not fit",
        PAGES,
        "                    return found, position\n                found.append(line)",
        "                    return found, row.seq\n                found.append(line)",
        _PAGES,
    ),
    Fault(
        "a request that looked through enough ends at the head",
        PAGES,
        "            return found, query.head\n    return found, position",
        "            return found, query.head\n    return found, query.head",
        _PAGES,
    ),
    Fault(
        "a cursor from before what is kept is not refused",
        PAGES,
        "    if since < floor:",
        "    if since < 0:",
        _PAGES,
    ),
    Fault(
        "who waits for events is woken by any",
        WAITING,
        "for reader in [reader for reader in self._readers if not reader[0].isdisjoint(recorded_as)]:",
        "for reader in list(self._readers):",
        _PAGES,
    ),
    Fault(
        "a connection that goes waits for events on",
        WAITING,
        "        self._readers = [reader for reader in self._readers if reader[2].connection is not connection]",
        "        self._readers = [reader for reader in self._readers]",
        _PAGES,
    ),
    Fault(
        "a relay takes a number with zeros before it for the number",
        FORM,
        ' and (digits[0] != "0" or digits == "0")',
        "",
        _FORM,
    ),
    Fault(
        "a relay that has all its shapes forgets where it was",
        FORM,
        "                at.seq, at.at_ms = seq, at_ms\n",
        "",
        _FORM,
    ),
    Fault(
        "a relay does not cut what is torn",
        FILES,
        "            os.ftruncate(self._descriptor, newest.where)",
        "            os.ftruncate(self._descriptor, os.fstat(newest.descriptor).st_size)",
        _FILES,
    ),
    Fault(
        "a relay that rotates loses the line that did not fit",
        FILES,
        "                lines = self._writer.lines(happening)\n            text += lines",
        '                lines = ""\n            text += lines',
        _FILES,
    ),
    Fault(
        "what was rotated away is not said to be lost",
        FILES,
        "    return position[0] != begins[0] or position[1] < begins[1]",
        "    return position[0] != begins[0]",
        _FILES,
    ),
    Fault(
        "the names of files that a kill left are not put in order",
        FILES,
        "        if opened.path != wanted:",
        "        if opened.path != wanted and number:",
        _FILES,
    ),
]
