"""A run that is started and interrupted in a notebook, with a real kernel."""

import threading
import time

import pytest

from tests.api.conftest import words

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")


def test_a_notebook_shows_the_progress_and_its_interrupt_stops_the_run(folder, tiny_model):
    overrides = words(tiny_model, "trainer.max_steps=100000", "name=cell")
    cells = [
        f"import finetune\nfinetune.fit(*{overrides!r})",
        "run = finetune.get_run('cell')\nprint(run.status.state)\nrun",
        "finetune.check('trainer.max_epcohs=3').problems[0].advice",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = nbclient.NotebookClient(
        notebook, timeout=200, allow_errors=True, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    interrupter = threading.Thread(target=interrupt_when_training, args=(client, folder))
    interrupter.start()
    client.execute()
    interrupter.join()
    first, second, third = (cell.outputs for cell in notebook.cells)
    printed = "".join(output.text for output in first if output.output_type == "stream")
    assert "run directory: " in printed and "Stopping debug/cell, which saves first" in printed
    assert "\rtraining, step " in printed  # one line that is rewritten
    assert [output.ename for output in first if output.output_type == "error"] == ["KeyboardInterrupt"]
    assert second[0].text == "interrupted\n"
    assert "<b>debug/cell</b>" in second[1].data["text/html"]
    assert third[0].data["text/plain"] == "'Did you mean trainer.max_epochs?'"


def interrupt_when_training(client, folder):
    metrics = folder / "outputs/debug/cell/metrics.jsonl"
    deadline = time.monotonic() + 150
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)  # for the line of the progress
    import asyncio

    asyncio.run(client.km.interrupt_kernel())
