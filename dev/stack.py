"""A whole development stack: start it, use it, take a service down and up, end it.

`start_stack` is what tests and the demo call; `start_detached` and `Stack.attach` serve `make up`. What a service is
belongs to its own module, where a binary comes from to `dev.binaries`.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from dev import kubernetes, minio, postgres, redis
from dev.binaries import provision
from dev.processes import TIER_APPLICATION, Processes, ProcessFailedError, StackError, StopRule
from dev.progress import Elapsed, Progress, print_to_stderr
from dev.settings import SETTINGS_FILE, Settings

SERVICES = (kubernetes.NAME, postgres.NAME, redis.NAME, minio.NAME)
START_ATTEMPTS = 4
STATE_ENTRIES = (
    *("kubernetes", "postgres", "postgres.partial", "postgres-password", "redis", "minio", "minio-config"),
    *("volumes", "logs", "supervisor.log", "supervisor.lock", SETTINGS_FILE),
)
PORT_TAKEN = "already in use"
APPLICATION_GRACE_SECONDS = 20.0

Service = kubernetes.Kubernetes | postgres.Postgres | redis.Redis | minio.Minio
AnyService = TypeVar("AnyService", kubernetes.Kubernetes, postgres.Postgres, redis.Redis, minio.Minio)


class Stack:
    """A running stack. The services that it was not started with raise StackError."""

    def __init__(self, settings: Settings, processes: Processes) -> None:
        self.settings = settings
        self.processes = processes
        self.state_dir = settings.state_dir
        self.volumes_root = settings.state_dir / "volumes"

    @classmethod
    def attach(cls, state_dir: Path) -> Stack:
        """The stack that runs in `state_dir`; StackError when none does."""
        state_dir = Path(state_dir).absolute()
        processes = Processes.attach(state_dir)
        settings = Settings.load(state_dir)
        if settings is None or not settings.is_ready:
            raise StackError(f"the stack in {state_dir} is still starting")
        return cls(settings, processes)

    @property
    def kubernetes(self) -> kubernetes.Kubernetes:
        return kubernetes.Kubernetes(self.require(kubernetes.NAME))

    @property
    def postgres(self) -> postgres.Postgres:
        return postgres.Postgres(self.require(postgres.NAME))

    @property
    def redis(self) -> redis.Redis:
        return redis.Redis(self.require(redis.NAME))

    @property
    def minio(self) -> minio.Minio:
        return minio.Minio(self.require(minio.NAME))

    def require(self, name: str) -> Settings:
        if name not in self.settings.services:
            raise StackError(f"this stack has no {name}, only {', '.join(self.settings.services)}")
        return self.settings

    def service(self, name: str) -> Service:
        services: dict[str, Callable[[], Service]] = {
            kubernetes.NAME: lambda: self.kubernetes,
            postgres.NAME: lambda: self.postgres,
            redis.NAME: lambda: self.redis,
            minio.NAME: lambda: self.minio,
        }
        return services[name]()

    def start_service(self, name: str) -> None:
        """Start a stopped service on its port and with its data, and wait until it is ready."""
        self.service(name).start(self.processes)

    def stop_service(self, name: str) -> None:
        """Stop one service cleanly and wait until it has ended; the others go on."""
        self.service(name).stop(self.processes)

    def spawn(self, name: str, argv: Sequence[str | Path], env: Mapping[str, str] | None = None) -> int:
        """Start one more process that ends with the stack, before the services do; returns its number.

        `env` is its whole environment (default: ours); its output goes to `logs/NAME.log` in the state directory.
        """
        stop = StopRule(grace_seconds=APPLICATION_GRACE_SECONDS)
        return self.processes.spawn(name, argv, env=env, cwd=Path.cwd(), tier=TIER_APPLICATION, stop=stop)

    def stop_process(self, name: str) -> None:
        """Stop a process started with `spawn`, and wait until it has ended."""
        self.processes.stop(name)

    def environment(self) -> dict[str, str]:
        """What a command needs to find this stack: KUBECONFIG (if there is a Kubernetes) and TASKDELETION_DEV_STATE."""
        environment = {"TASKDELETION_DEV_STATE": str(self.state_dir)}
        if kubernetes.NAME in self.settings.services:
            environment["KUBECONFIG"] = str(self.kubernetes.kubeconfig)
        return environment

    def to_json(self) -> dict[str, Any]:
        """The endpoints by service, as plain JSON values."""
        document = {"state_dir": str(self.state_dir), "volumes_root": str(self.volumes_root)}
        return document | {name: self.service(name).endpoint_document() for name in self.settings.services}

    def shutdown(self) -> None:
        """End the whole stack, whoever started it."""
        self.processes.shutdown()


@contextmanager
def start_stack(
    state_dir: Path | None = None,
    services: Sequence[str] = SERVICES,
    audit_log: bool = True,
    progress: Progress = print_to_stderr,
) -> Iterator[Stack]:
    """A stack for the length of a `with` block; without a state directory of its own it leaves nothing behind."""
    with ExitStack() as on_exit:
        yield launch(on_exit, state_dir, services=services, audit_log=audit_log, progress=progress)


def start_detached(
    state_dir: Path, *, services: Sequence[str] = SERVICES, audit_log: bool = True, progress: Progress = print_to_stderr
) -> Stack:
    """A stack that lives on until `Stack.shutdown` or `python -m dev down`."""
    with ExitStack() as on_exit:
        stack = launch(on_exit, state_dir, services=services, audit_log=audit_log, progress=progress)
        stack.processes.detach()
        on_exit.pop_all()
        return stack


def launch(
    on_exit: ExitStack, state_dir: Path | None, *, services: Sequence[str], audit_log: bool, progress: Progress
) -> Stack:
    """Start a supervisor, get the binaries, start the services; `on_exit` ends whatever was started."""
    directory, processes = start_processes(on_exit, state_dir)
    stack = Stack(choose_settings(directory, services=services, audit_log=audit_log), processes)
    stack.settings.save({})  # drawn secrets must outlive a start that fails; attaching waits for `is_ready`
    stack.settings.binaries = provision(needed_binaries(services), processes, progress)
    elapsed = Elapsed(f"starting {', '.join(services)}", progress)
    start_services(stack)
    stack.settings.is_ready = True
    stack.settings.save(stack.to_json())
    elapsed.done()
    return stack


def start_processes(on_exit: ExitStack, state_dir: Path | None) -> tuple[Path, Processes]:
    """A supervisor in the given directory, or in one that is removed again by it, or by us if it was killed."""
    directory = make_state_dir(state_dir)
    if state_dir is None:
        on_exit.callback(shutil.rmtree, directory, ignore_errors=True)
    processes = Processes.start(directory, remove_state_dir=state_dir is None)
    on_exit.callback(processes.shutdown)
    return directory, processes


def make_state_dir(state_dir: Path | None) -> Path:
    directory = Path(state_dir or tempfile.mkdtemp(prefix="task-deletion-stack-")).absolute()
    (directory / "volumes").mkdir(parents=True, exist_ok=True)
    return directory


def choose_settings(state_dir: Path, *, services: Sequence[str], audit_log: bool) -> Settings:
    unknown = set(services) - set(SERVICES)
    if unknown:
        raise StackError(f"unknown services: {', '.join(sorted(unknown))}; there are {', '.join(SERVICES)}")
    settings = Settings(state_dir, tuple(services), audit_log)
    earlier = Settings.load(state_dir)
    if earlier is not None:
        settings.keep_from(earlier)
    return settings


def provision_services(services: Sequence[str] = SERVICES, progress: Progress = print_to_stderr) -> dict[str, Path]:
    """Get the programs of these services without starting them, and say where each is."""
    with ExitStack() as on_exit:
        _, processes = start_processes(on_exit, None)
        return provision(needed_binaries(services), processes, progress)


def needed_binaries(services: Sequence[str]) -> list[str]:
    modules = {module.NAME: module.BINARIES for module in (kubernetes, postgres, redis, minio)}
    return [binary for service in services for binary in modules[service]]


def start_services(stack: Stack) -> None:
    """Start all services at once; when one fails, end the others before its error is raised."""
    names = stack.settings.services
    with ThreadPoolExecutor(max_workers=max(1, len(names))) as pool, ExitStack() as on_error:
        # Entered last, so run first: a failure must end the services that the other threads still wait for.
        on_error.callback(stack.shutdown)
        started, _ = wait(
            [pool.submit(start_on_free_ports, stack, name) for name in names], return_when=FIRST_EXCEPTION
        )
        for future in started:
            future.result()
        on_error.pop_all()


def start_on_free_ports(stack: Stack, name: str) -> None:
    """Start a service, on other ports if somebody took one between our choosing and its use of it."""
    ports = {module.NAME: module.PORTS for module in (kubernetes, postgres, redis, minio)}[name]
    for _ in range(START_ATTEMPTS):
        try:
            stack.start_service(name)
        except ProcessFailedError as failure:
            if PORT_TAKEN not in str(failure):
                raise
            stack.stop_service(name)
            for port in ports:
                stack.settings.draw_port(port)
        else:
            return
    raise StackError(f"{name}: somebody else took its ports {START_ATTEMPTS} times")


def remove_data(state_dir: Path) -> None:
    """Remove what a stack that has stopped left in its state directory, and the directory if nothing else is in it."""
    if not (state_dir / SETTINGS_FILE).exists():
        return
    for name in STATE_ENTRIES:
        path = state_dir / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        state_dir.rmdir()
