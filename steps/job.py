"""The whole job for one video on one machine: look up the RUN, plan, detect in parallel processes, aggregate.

Nothing here knows of queues or messages: `reelscan run` and `reelscan up` call it alike.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from steps.aggregate import aggregate, ensure_outputs
from steps.errors import BadInputError, InvalidTaskError, NotFoundError, StorageError
from steps.lease import LEASE_KEY, Lease
from steps.plan import PLAN_KEY, ModelIdentity, Plan, run_digest
from steps.planner import load_plan, make_plan
from steps.planning import PlanRequest, plan_in_process
from steps.profile import load_profile
from steps.results.summary import Summary, load_summary
from steps.source import Source, open_source
from steps.workers import Workers, cores

if TYPE_CHECKING:
    from steps.options import Options
    from steps.plan import Chunk
    from steps.settings import Settings
    from steps.store import Store

WORKER_START_SECONDS = 0.6
"""What starting the process of a chunk costs here."""


class Observer:
    """What a job tells while it runs. These methods do nothing; a view overrides those that it shows."""

    def begin(self, step: str) -> None:
        """A step begins: `plan`, `detect` or `aggregate`."""

    def advance(self, done: int, total: int) -> None:
        """So much of the step is done: bytes of the video in `plan`, frames in `detect` and `aggregate`."""

    def note(self, line: str) -> None:
        """Something happened that a person may want to know, and the job goes on."""


class ModelServer(Protocol):
    """The model server that the chunks ask."""

    def address(self, model: ModelIdentity) -> str:
        """HOST:PORT, when it has the model; may wait for that, under a deadline.

        Raises:
            ReelscanError: it does not have it.
        """
        ...

    def ensure_running(self) -> None:
        """Called again and again while chunks are analysed; raises ReelscanError if there is no use in going on."""
        ...


@dataclass(frozen=True)
class GivenServer:
    """A server that somebody else runs."""

    given_address: str
    settings: Settings

    def address(self, model: ModelIdentity) -> str:
        """HOST:PORT, as given, when it has the model."""
        from steps.serving import ServingClient

        # Asked once here: else every chunk would wait for a server that is not there, and be tried again.
        seconds = self.settings.ready_timeout_seconds
        with ServingClient(self.given_address, model.name, model.version, ready_timeout_seconds=seconds) as client:
            client.wait_until_available()
        return self.given_address

    def ensure_running(self) -> None:
        """The chunks find out by themselves."""


class _LeaseLostError(StorageError):
    """Another may compute the run now. Whoever has done so when the lease is there again, the results are the same."""


@dataclass(frozen=True)
class JobResult:
    """What a job came to."""

    store: Store
    """Where the RUN's files are."""
    summary: Summary
    reused: bool
    """Whether the results were there already."""


@dataclass(frozen=True)
class Job:
    """One video and what to do with it.

    Args:
        bucket: of the video; None for a local file.
        key: of the video, or the file's path.
        settings: the deployment's; `serving` is not used.
        open_run: opens the store of a RUN, given its digest.
        server: asked for its address when the first chunk is due.
        processes: chunks analysed at a time; 0 is as many as the cores allow.
        force_nonce: with `options.force`, tells this computation from any other. The same again goes on with it.
        lease_owner: names those who compute the run together; by default this job alone.
        observer: is told how the job goes.
    """

    bucket: str | None
    key: str
    options: Options
    settings: Settings
    open_run: Callable[[str], Store]
    server: ModelServer
    processes: int = 0
    force_nonce: str = ""
    lease_owner: str | None = None
    observer: Observer = field(default_factory=Observer)

    def run(self) -> JobResult:
        """Do the job, or find it done.

        Raises:
            ReelscanError: there are no results; its `code` says why. Frames that are missing are no error: see
                the summary's status.
        """
        deadline = time.monotonic() + self.settings.job_timeout_seconds
        self.observer.begin("plan")
        source = open_source(self.bucket, self.key, self.settings)
        model = model_identity(self.options, self.settings)
        store = self.open_run(run_digest(source.identity, self.options.digested(), model))
        result = self._find_done(store)
        while result is None:
            lease = Lease(store, self.settings.lease_seconds, self.lease_owner)
            self._acquire(lease, store, deadline)
            try:
                # Another may have done it while this one waited for the lease.
                result = self._find_done(store) or self._compute(source, model, store, lease, deadline)
            except _LeaseLostError as error:
                if time.monotonic() > deadline:
                    raise
                self.observer.note(str(error))
            except BadInputError:
                self._leave_nothing(store, lease)
                raise
            finally:
                lease.release()
        return result

    def _leave_nothing(self, store: Store, lease: Lease) -> None:
        """Remove what a video leaves that could not be planned: the lease. At worst another tries to plan it too."""
        if not store.exists(PLAN_KEY):
            lease.release()
            store.delete(LEASE_KEY)

    def _acquire(self, lease: Lease, store: Store, deadline: float) -> None:
        asked = 0

        def tell() -> bool:
            nonlocal asked
            asked += 1
            # The first time it may be a lease that was released, or whose holder died.
            if asked == 2:
                self.observer.note(f"another process computes {store.url}; waiting for it")
            return False

        lease.acquire(max(0.0, deadline - time.monotonic()), until=tell)

    def _compute(self, source: Source, model: ModelIdentity, store: Store, lease: Lease, deadline: float) -> JobResult:
        plan = self._plan(source, model, store)
        self._detect(plan, store, lease, deadline)
        failed_chunks = lacking_chunks(plan, store)
        try:
            summary = self._aggregate(plan, store)
        except StorageError as error:
            # Aggregate deletes a damaged shard: its chunk is analysed once more.
            if lacking_chunks(plan, store) == failed_chunks:
                raise
            self.observer.note(str(error))
            self._detect(plan, store, lease, deadline)
            summary = self._aggregate(plan, store)
        return JobResult(store, summary, reused=False)

    def _find_done(self, store: Store) -> JobResult | None:
        summary = find_results(store, self.options)
        return None if summary is None else JobResult(store, summary, reused=True)

    def _plan(self, source: Source, model: ModelIdentity, store: Store) -> Plan:
        found = find_plan(store, self.options)
        if found is not None:
            return found
        request = PlanRequest(
            source=source.identity,
            options=self.options,
            model=model,
            store_url=store.url,
            force_nonce=self.force_nonce if self.options.force else "",
            start_of_worker_seconds=WORKER_START_SECONDS,
        )
        return plan_in_process(request, store, self.settings, self.observer.advance)

    def _detect(self, plan: Plan, store: Store, lease: Lease, deadline: float) -> None:
        self.observer.begin("detect")
        chunks = lacking_chunks(plan, store)
        done_frames = plan.planned_frames - sum(chunk.frames for chunk in chunks)
        self.observer.advance(done_frames, plan.planned_frames)
        if not chunks:
            return

        def check() -> None:
            try:
                lease.check()
            except StorageError as error:
                raise _LeaseLostError(str(error)) from error
            self.server.ensure_running()

        workers = Workers(
            store,
            plan,
            self.settings.model_copy(update={"serving": self.server.address(plan.model)}),
            jobs=min(len(chunks), self.processes or default_processes()),
            advance=lambda frames: self.observer.advance(done_frames + frames, plan.planned_frames),
            note=self.observer.note,
            check=check,
        )
        workers.analyse(chunks, deadline)

    def _aggregate(self, plan: Plan, store: Store) -> Summary:
        self.observer.begin("aggregate")
        return aggregate(store, plan, self.options.outputs, progress=self.observer.advance)


def default_processes() -> int:
    """Chunks analysed at a time. More only fill the memory: the model server is what all of them wait for."""
    return min(8, cores())


def find_summary(store: Store, options: Options) -> Summary | None:
    """The summary of a RUN that answers a task as it is: one that succeeded, unless the task forces it anew."""
    summary = None if options.force else load_summary(store)
    return summary if summary is not None and summary.status == "succeeded" else None


def find_results(store: Store, options: Options) -> Summary | None:
    """As `find_summary`, after the outputs that the task asks for and the RUN lacks were written."""
    summary = find_summary(store, options)
    if summary is None or set(options.outputs) <= set(summary.files):
        return summary
    return ensure_outputs(store, load_plan(store), summary, options.outputs)


def find_plan(store: Store, options: Options) -> Plan | None:
    """The plan of a RUN that was begun, unless the task forces it anew; None also if it is of another version."""
    if options.force:
        return None
    try:
        return load_plan(store)
    except (NotFoundError, StorageError):
        return None


def find_or_make_plan(
    source: Source, options: Options, model: ModelIdentity, settings: Settings, store: Store, *,
    force_nonce: str, start_of_worker_seconds: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:  # fmt: skip
    """The plan of an interrupted RUN, or a new one; always a new one if the task is forced. As `make_plan`."""
    return find_plan(store, options) or make_plan(
        source, options, model, settings, store,
        force_nonce=force_nonce if options.force else "", replace=options.force,
        start_of_worker_seconds=start_of_worker_seconds, progress=progress,
    )  # fmt: skip


def lacking_chunks(plan: Plan, store: Store) -> list[Chunk]:
    """The chunks that have no shard yet."""
    existing = set(store.list(plan.prefix))
    return [chunk for chunk in plan.chunks if plan.shard_key(chunk) not in existing]


def model_identity(options: Options, settings: Settings) -> ModelIdentity:
    """The model that a task uses: the one that it names, else the deployment's.

    Raises:
        InvalidTaskError: the task asks for a label that the model does not have.
        UsageError: the deployment's model profile cannot be read.
    """
    profile = load_profile(settings.model_profile)
    known = set(profile.label_of_class_id.values())
    for label in options.labels or ():
        if known and label not in known:
            near = difflib.get_close_matches(label, known, n=3) or sorted(known)[:5]
            raise InvalidTaskError(
                f"label {label!r} is none of the model's {len(known)} labels; some of them: {', '.join(near)}"
            )
    return ModelIdentity(
        name=options.model or settings.model_name,
        version=settings.model_version,
        profile_digest=profile.digest(),
    )
