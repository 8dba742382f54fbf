"""Every figure that a GPU is needed for, from one command on a bare machine: `tools/gpu_check.sh`.

start.py      looks at the machine, installs the wheels, starts the check; the standard library is enough for it
janitor.py    ends what a run has started, and removes its temporary folder, however the run ends
options.py    the command's options, and the plans
stages.py     what a plan is made of, and what a stage may use
processes.py  runs commands, of which nothing is left
check.py      runs a plan's stages within the minutes
output.py     saves what is known
probe.py      whether FP8 and fused attention compute correctly here (looks.py)
training.py   the plan `training`: Megatron's trainer (cases.py, shards.py, report.py), the guard, the tests of
              tests/gpu, two ranks (two_ranks.py)
"""
