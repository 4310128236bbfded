"""A plane that records which leases it declares lost: `python -m tests.faults.recorded_plane`, and
then the words of `creche`."""

from __future__ import annotations

import os

from creche import events
from creche.__main__ import main
from creche.testing.history import FileRecorder, Lost


class RecordingHub(events.Hub):
    """The plane's one plug for whoever wants to know what happens, with a recorder in it."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()
        recorder = FileRecorder(os.environ["CRECHE_FAULTS_RECORD"], "plane")

        def record(event: events.Event) -> None:
            if isinstance(event, events.LeaseLost):
                name = f"{event.epoch}.{event.attempt}"
                recorder.note(Lost, job=event.job, attempt=name, process=event.worker or "plane")

        self.subscribe(record)


if __name__ == "__main__":
    from creche.engine import plane

    plane.Hub = RecordingHub  # type: ignore[misc]
    main()
