"""After the runner: what is finished as records, what is not as failures."""

from __future__ import annotations

from fusion_det.compare.done import is_done
from fusion_det.compare.outcome import Failure
from fusion_det.compare.plan import Job, Plan, PlannedArm
from fusion_det.compare.run_record import RunRecord, read_evaluation, read_run
from fusion_det.compare.runner import Runner
from fusion_det.compare.state import StudyState
from fusion_det.errors import DataError


def collect(plan: Plan, state: StudyState) -> tuple[list[RunRecord], list[Failure]]:
    """(the finished runs, arm by arm; the others and why). A folder that cannot be used is a failure, not a number."""
    jobs = {job.id: job for job in plan.jobs}
    runs, failures = [], []
    for arm in plan.arms:
        for seed in plan.seeds:
            job = jobs[f"{arm.name}/seed{seed}"]
            found = state[job.id]
            if not is_done(job):
                reason = _root_cause(job, jobs, state)
                failures.append(Failure(arm.name, seed, found.status, state[reason.id].message or "not finished", Runner.log_of(reason)))
                continue
            try:
                runs.append(_record(job, jobs, arm, state))
            except DataError as error:
                failures.append(Failure(arm.name, seed, "unusable", error.lines[0]))
    return runs, failures


def _record(job: Job, jobs: dict[str, Job], arm: PlannedArm, state: StudyState) -> RunRecord:
    if job.tool == "train":
        return read_run(job.folder, arm.name, seconds=state[job.id].seconds or None)
    training = jobs[job.needs[0]]
    trained = read_run(training.folder, arm.name, seconds=state[training.id].seconds or None)
    return read_evaluation(job.folder, trained, arm.name, arm.measured | {"seed": job.seed}, (*arm.words, *arm.views))


def _root_cause(job: Job, jobs: dict[str, Job], state: StudyState) -> Job:
    """The job that failed so that ``job`` could not begin, or ``job`` itself."""
    return next((jobs[need] for need in job.needs if state[need].status == "failed"), job)
