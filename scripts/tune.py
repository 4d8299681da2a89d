#!/usr/bin/env python3
"""Searches the configuration space for the best bits against KL, with Optuna.

Each trial runs `evaluate perplexity` with --set key=value for every parameter and minimises two
things at once: the bits an element of sealed blocks, and the mean KL to the dense cache. Trials are
kept in an SQLite file, so the same command goes on after an interruption. The configuration chosen
from the Pareto front is written as a preset, all trials as STUDY.json (for plot.py pareto).

The search space is JSON:
  {"fixed": {"policy": "adaptive"},
   "parameters": {"key_bits_mean": {"type": "float", "low": 3, "high": 5, "step": 0.25},
                  "value_bits": {"type": "int", "low": 2, "high": 6},
                  "ema_decay": {"type": "float", "low": 0.5, "high": 0.999, "log": false},
                  "bit_classes": {"type": "categorical", "choices": [[2, 4, 6, 8], [4, 8]]}}}

Needs optuna, which scripts/setup.sh installs into .venv-tools.
example: .venv-tools/bin/python scripts/tune.py --space configs/experiments/tune_adaptive.json --model models/M --text t.txt \\
                 --trials 40 --workers 2 --max-bits 4.6 --preset results/tuned.json
"""
import argparse
import concurrent.futures
import hashlib
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


class TuneError(Exception):
    """A mistake in what tune.py was given; the message is one line."""


class TrialError(Exception):
    """One trial failed; the study goes on."""


# --- the search space -------------------------------------------------------------------------

def check_parameter(name, spec, where):
    def bad(expectation):
        raise TuneError(f"{where}: parameter {name}: expected {expectation}, got {json.dumps(spec)}")

    if not isinstance(spec, dict):
        bad("an object with a type")
    kind = spec.get("type")
    known = {"int": {"low", "high", "step", "log"}, "float": {"low", "high", "step", "log"},
             "categorical": {"choices"}}
    if kind not in known:
        bad('type "int", "float" or "categorical"')
    unknown = set(spec) - known[kind] - {"type"}
    if unknown:
        bad(f"no key {sorted(unknown)[0]!r}")
    if kind == "categorical":
        if not isinstance(spec.get("choices"), list) or len(spec["choices"]) == 0:
            bad("a non-empty list of choices")
        if any(isinstance(choice, dict) for choice in spec["choices"]):
            bad("choices that are values or lists")
        if len({json.dumps(choice) for choice in spec["choices"]}) < len(spec["choices"]):
            bad("choices that differ")
        return
    for key in ("low", "high"):
        value = spec.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            bad(f"a number {key}")
        if kind == "int" and value != int(value):
            bad(f"a whole number {key}")
        if not math.isfinite(value):
            bad(f"a finite {key}")
    if not isinstance(spec.get("log", False), bool):
        bad("log true or false")
    step = spec.get("step")
    if step is not None and (isinstance(step, bool) or not isinstance(step, (int, float))):
        bad("a number step")
    if step is not None and kind == "int" and step != int(step):
        bad("a whole number step")
    if spec["low"] > spec["high"]:
        bad("low <= high")
    if spec.get("log") and spec.get("step") is not None:
        bad("either log or step")
    if spec.get("log") and spec["low"] <= 0:
        bad("low > 0 with log")
    if spec.get("step") is not None and not spec["step"] > 0:
        bad("step > 0")


def read_space(path):
    try:
        space = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise TuneError(f"cannot read {path}: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise TuneError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
    if not isinstance(space, dict):
        raise TuneError(f"{path}: expected an object with fixed and parameters")
    unknown = set(space) - {"fixed", "parameters", "about"}
    if unknown:
        raise TuneError(f"{path}: unknown key {sorted(unknown)[0]!r}: expected fixed, parameters")
    parameters, fixed = space.get("parameters"), space.get("fixed", {})
    if not isinstance(parameters, dict) or not parameters:
        raise TuneError(f"{path}: expected at least one entry in parameters")
    if not isinstance(fixed, dict):
        raise TuneError(f"{path}: expected fixed to be an object")
    for name, spec in parameters.items():
        if name in fixed:
            raise TuneError(f"{path}: {name} is both fixed and a parameter")
        check_parameter(name, spec, path)
    return {"fixed": fixed, "parameters": parameters}


def suggest(trial, parameters):
    values = {}
    for name, spec in parameters.items():
        if spec["type"] == "categorical":
            # The storage takes only plain values: lists travel as JSON text.
            chosen = trial.suggest_categorical(name, [json.dumps(c) for c in spec["choices"]])
            values[name] = json.loads(chosen)
        elif spec["type"] == "int":
            values[name] = trial.suggest_int(name, int(spec["low"]), int(spec["high"]),
                                             step=int(spec.get("step", 1)),
                                             log=bool(spec.get("log", False)))
        else:
            values[name] = trial.suggest_float(name, spec["low"], spec["high"],
                                               step=spec.get("step"),
                                               log=bool(spec.get("log", False)))
    return values


# --- one trial --------------------------------------------------------------------------------

class Runner:
    """Runs `evaluate perplexity`; keeps the running processes so that Ctrl-C can end them."""

    def __init__(self, args):
        self.args = args
        self.running = set()
        self.lock = threading.Lock()
        self.stopped = False
        self.commit = None

    def command(self, config, output, model=None):
        a = self.args
        command = [str(a.evaluate), "perplexity", "--model", str(model or a.model), "--context",
                   str(a.context), "--windows", str(a.windows), "--protocol", a.protocol]
        command += ["--text", str(a.text)] if a.text else ["--token-ids", str(a.token_ids)]
        for key, value in config.items():
            command += ["--set", f"{key}={json.dumps(value)}"]
        if a.threads:
            command += ["--threads", str(a.threads)]
        return command + ["--json", str(output), *a.extra]

    def check_keys(self, space):
        """Raises TuneError for a configuration key that the program does not know. It reads the
        configuration before the model, so a model that does not exist ends it at once."""
        config = dict(space["fixed"])
        for name, spec in space["parameters"].items():
            config[name] = spec["choices"][0] if spec["type"] == "categorical" else spec["low"]
        with tempfile.TemporaryDirectory() as folder:
            command = self.command(config, pathlib.Path(folder) / "result.json",
                                   model=pathlib.Path(folder) / "no-model")
            errors = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                    text=True, errors="replace", check=False).stderr
        for line in errors.splitlines():
            if "unknown" in line:
                raise TuneError(f"{self.args.space}: {line.split('error: ', 1)[-1]}")

    def run(self, config):
        """(bits, kl) of a configuration. Raises TrialError with one line."""
        with tempfile.TemporaryDirectory() as folder:
            output = pathlib.Path(folder) / "result.json"
            with self.lock:
                if self.stopped:
                    raise TrialError("interrupted")
                process = subprocess.Popen(self.command(config, output), stdout=subprocess.DEVNULL,
                                           stderr=subprocess.PIPE, text=True, errors="replace",
                                           start_new_session=True)
                self.running.add(process)
            try:
                _, errors = process.communicate(timeout=self.args.timeout)
            except subprocess.TimeoutExpired:
                self.end(process)
                raise TrialError(f"no result after {self.args.timeout} s") from None
            finally:
                with self.lock:
                    self.running.discard(process)
            if self.stopped:
                raise TrialError("interrupted")
            if process.returncode != 0:
                lines = [line for line in errors.splitlines() if line.strip()]
                how = (f"ended by {signal.Signals(-process.returncode).name}"
                       if process.returncode < 0 else f"exit code {process.returncode}")
                raise TrialError(f"evaluate: {how}: {lines[-1] if lines else 'no message'}")
            try:
                result = json.loads(output.read_text(encoding="utf-8"))
                values = (float(result["kv_bits_sealed"]["total"]), float(result["kl_mean"]))
                self.commit = result.get("commit", self.commit)
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise TrialError(f"evaluate wrote no usable result: {error!r}") from None
            if not all(map(math.isfinite, values)):
                raise TrialError(f"evaluate measured {values[0]} bits and KL {values[1]}")
            return values

    @staticmethod
    def end(process):
        try:
            os.killpg(process.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
        process.wait()

    def stop(self):
        with self.lock:
            self.stopped = True
            running = list(self.running)
        for process in running:
            self.end(process)


# --- the study --------------------------------------------------------------------------------

def choose(front, args):
    """The trial of the front to keep: by a bound, or the knee of bits against log KL."""
    if args.max_bits is not None:
        fitting = [t for t in front if t["bits"] <= args.max_bits]
        return min(fitting, key=lambda t: t["kl"], default=None)
    if args.max_kl is not None:
        fitting = [t for t in front if t["kl"] <= args.max_kl]
        return min(fitting, key=lambda t: t["bits"], default=None)
    points = [(t["bits"], math.log(max(t["kl"], 1e-12))) for t in front]
    (x0, y0), (x1, y1) = points[0], points[-1]
    if len(front) < 3 or x0 == x1 or y0 == y1:
        return front[len(front) // 2]
    # Farthest below the line between the ends, both axes scaled to 0..1.
    depth = [1 - (x - x0) / (x1 - x0) - (y - y1) / (y0 - y1) for x, y in points]
    return front[depth.index(max(depth))]


def front_of(trials):
    front = []
    for trial in sorted(trials, key=lambda t: (t["bits"], t["kl"])):
        if not front or trial["kl"] < front[-1]["kl"]:
            front.append(trial)
    return front


def summary(study, space, args, commit):
    rows = []
    for trial in study.get_trials(deepcopy=False):
        row = {"number": trial.number, "state": trial.state.name.lower(),
               "config": trial.user_attrs.get("config"), "error": trial.user_attrs.get("error"),
               "seconds": trial.duration.total_seconds() if trial.duration else None}
        if trial.values:
            row["bits"], row["kl"] = trial.values
        rows.append(row)
    complete = [row for row in rows if row["state"] == "complete"]
    return {"study": study.study_name, **study.user_attrs["setting"], "space": space,
            "seed": args.seed, "commit": commit, "trials": rows, "front": front_of(complete)}


def write_json(path, value):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def open_study(optuna, args, space):
    storage = pathlib.Path(args.storage)
    storage.parent.mkdir(parents=True, exist_ok=True)
    try:
        study = optuna.create_study(study_name=args.study, storage=f"sqlite:///{storage}",
                                    directions=["minimize", "minimize"], load_if_exists=True)
        begun = len(study.get_trials(deepcopy=False))
    except Exception as error:  # sqlalchemy's, optuna's: whatever the file does to them.
        raise TuneError(f"{storage}: not a usable Optuna database: "
                        f"{str(error).splitlines()[0]}") from None
    # The same seed again would propose what the first run tried.
    study.sampler = optuna.samplers.TPESampler(seed=args.seed + begun, multivariate=True,
                                               constant_liar=args.workers > 1)
    # What decides a trial's result must not change within a study.
    text = args.text or args.token_ids
    setting = {"space": space, "model": str(args.model), "text": str(text),
               "text_sha256": hashlib.sha256(text.read_bytes()).hexdigest(),
               "context": args.context, "windows": args.windows, "protocol": args.protocol,
               "extra": args.extra}
    before = study.user_attrs.get("setting")
    if before is None:
        study.set_user_attr("setting", setting)
    elif before != setting:
        key = next(k for k in setting if setting[k] != before.get(k))
        raise TuneError(f"study {args.study} in {storage} was made with another {key}: "
                        "choose another --study or --storage")
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        # Left by a process that was killed: nobody will finish it.
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def finished(study, states):
    """Trials that count towards --trials: all but those an interruption cut short."""
    return sum(1 for t in study.get_trials(deepcopy=False, states=states)
               if t.user_attrs.get("error") != "interrupted")


def search(optuna, study, space, runner, args):
    """Asks for and runs trials until --trials have finished; returns False when interrupted."""
    states = optuna.trial.TrialState
    done = finished(study, (states.COMPLETE, states.FAIL))
    started = time.monotonic()
    first = done
    pending = {}
    # A KeyboardInterrupt in the middle of a transaction would leave the database locked: Ctrl-C
    # sets a flag that is looked at between two of them.
    stop = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    pool = concurrent.futures.ThreadPoolExecutor(args.workers)
    try:
        while not stop.is_set() and (done < args.trials or pending):
            while len(pending) < args.workers and done + len(pending) < args.trials:
                trial = study.ask()
                config = {**space["fixed"], **suggest(trial, space["parameters"])}
                trial.set_user_attr("config", config)
                pending[pool.submit(runner.run, config)] = trial
            ready, _ = concurrent.futures.wait(pending, timeout=0.2,
                                               return_when=concurrent.futures.FIRST_COMPLETED)
            for future in ready:
                trial = pending.pop(future)
                done += 1
                left = (time.monotonic() - started) / (done - first) * (args.trials - done)
                head = f"[{done}/{args.trials}, {left / 60:.0f} min left] trial {trial.number}"
                try:
                    bits, kl = future.result()
                except (TrialError, OSError) as error:
                    trial.set_user_attr("error", str(error))
                    study.tell(trial, state=states.FAIL)
                    print(f"{head} failed: {error}", file=sys.stderr, flush=True)
                    continue
                study.tell(trial, (bits, kl))
                print(f"{head}: {bits:.3f} bits, KL {kl:.5f}", flush=True)
        if stop.is_set():
            runner.stop()
            for trial in pending.values():
                trial.set_user_attr("error", "interrupted")
                study.tell(trial, state=states.FAIL)
        return not stop.is_set()
    finally:
        runner.stop()
        pool.shutdown()
        signal.signal(signal.SIGINT, before)


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", required=True, help="search space, JSON")
    parser.add_argument("--evaluate", type=pathlib.Path, default=ROOT / "build/release/bin/evaluate",
                        help="the program evaluate (default: %(default)s)")
    parser.add_argument("--model", required=True, type=pathlib.Path)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", type=pathlib.Path)
    source.add_argument("--token-ids", type=pathlib.Path)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--windows", type=int, default=2)
    parser.add_argument("--protocol", choices=("stress", "prefill"), default="stress")
    parser.add_argument("--threads", type=int, help="threads of each trial")
    parser.add_argument("--trials", type=int, default=40, help="finished trials in the end")
    parser.add_argument("--workers", type=int, default=1, help="trials at a time")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds a trial may take")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--study", default="rillkv")
    parser.add_argument("--storage", type=pathlib.Path, default=pathlib.Path("results/tune.db"))
    parser.add_argument("--preset", type=pathlib.Path, default=pathlib.Path("results/tuned.json"),
                        help="where the chosen configuration goes")
    bound = parser.add_mutually_exclusive_group()
    bound.add_argument("--max-bits", type=float, help="choose the lowest KL within these bits")
    bound.add_argument("--max-kl", type=float, help="choose the fewest bits within this KL")
    parser.add_argument("extra", nargs="*", help="after --: more arguments for evaluate")
    args = parser.parse_args(argv)
    for name in ("trials", "workers", "context", "windows"):
        if getattr(args, name) < 1:
            parser.error(f"--{name}: expected at least 1, got {getattr(args, name)}")
    if not args.threads and args.workers > 1:  # Or each would take every core.
        args.threads = max(1, (os.cpu_count() or 1) // args.workers)
    return args


def main(argv=None):
    args = parse(argv)
    try:
        space = read_space(args.space)
        if not os.access(args.evaluate, os.X_OK) or not args.evaluate.is_file():
            raise TuneError(f"no such program: {args.evaluate}")
        args.evaluate = args.evaluate.resolve()  # "evaluate" alone would be sought on the PATH.
        if not args.model.is_dir():
            raise TuneError(f"no such model folder: {args.model}")
        if not (args.text or args.token_ids).is_file():
            raise TuneError(f"no such file: {args.text or args.token_ids}")
        runner = Runner(args)
        runner.check_keys(space)
        try:
            import optuna
        except ImportError:
            raise TuneError("needs the package optuna: scripts/setup.sh installs it, "
                            ".venv-tools/bin/python has it") from None
        import warnings
        warnings.filterwarnings("ignore", module="optuna")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = open_study(optuna, args, space)
    except TuneError as error:
        print(f"tune: {error}", file=sys.stderr)
        return 2
    whole = search(optuna, study, space, runner, args)
    report = summary(study, space, args, runner.commit)
    report_path = args.storage.with_suffix(".json")
    write_json(report_path, report)
    best = choose(report["front"], args) if report["front"] else None
    if best is not None:
        write_json(args.preset, best["config"])
        print(f"{args.preset}: trial {best['number']}, {best['bits']:.3f} bits, "
              f"KL {best['kl']:.5f}; all trials in {report_path}")
    if not whole:
        print(f"tune: interrupted; finished trials are in {args.storage}, the same command goes on",
              file=sys.stderr)
        return 1
    if not report["front"]:
        print("tune: no trial succeeded; the last message above says why", file=sys.stderr)
        return 1
    if best is None:
        print(f"tune: no trial within the bound; the front is in {report_path}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
