"""Benchmarks: whole processes, side by side on one machine, several runs each, told as ratios.

A number of seconds says more about the machine than about the program. So each figure stands beside what people would
use instead, measured in the same minutes, run by run in turn. `python -m bench` from the checkout, with the Python
that `./build.sh test` has prepared in `build/venv`.

    __main__.py       the options; which benchmarks there are
    machine.py        which Python is measured, in which environment, and what the report says about the machine
    measure.py        runs processes in turn: time, processor time, peak memory
    servers.py        starts a server as a process, here and for the tests and reliability/
    node.py           the same for those of Node.js
    azurite.py        a private Azurite
    aws.py            how boto3 talks to dynalite and the next one
    s3.py             a private moto, whose server is moto_server.py, and a private SeaweedFS
    static.py         a stand-in for Azure with hundreds of thousands of jobs
    proxy.py          a slow network
    registry_data.py  made-up jobs, as mops-jobs and as other programs write them
    job_data.py       a made-up job of many tasks
    clients.py        plain clients of a store, as processes of their own
    peers/            the tools that run many tasks, a program each
    tools.py          rclone, the libraries of others and the peers, installed into build/bench and build/peers
    listing.py  syncing.py  growing.py  updating.py  tasks.py ...
                      the benchmarks; each has run(setup), which gives lines for the report
    report.py         the table, and bench/RESULTS.md
"""
