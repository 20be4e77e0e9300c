"""What `python -m jsoftmax.bench --plan` finds, as rows of a table: for notebook 6."""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory


def plan(options):
    """Return the plans of the command with these options, one for each number of devices."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "plan.json"
        command = f"-m jsoftmax.bench --plan {options} --json {file}"
        subprocess.run([sys.executable, *command.split()], check=True, capture_output=True)
        return json.loads(file.read_text())["plans"]


def cells(plan):
    """Return what a device holds for good, and in all, in GB, and what it sends, in MB."""
    found = plan["found"]
    numbers = found["state"] / 1e9, found["memory"] / 1e9, found["sent"] / 1e6
    return [f"{number:.1f}" for number in numbers]
