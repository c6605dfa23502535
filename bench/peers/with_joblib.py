"""Tasks by joblib, whose workers are processes of loky."""

import work
from joblib import Parallel, delayed

if __name__ == "__main__":
    name, tasks = work.asked()
    call = delayed(getattr(work, name))
    work.report(Parallel(n_jobs=work.WORKERS, return_as="generator_unordered")(call(number) for number in range(tasks)))
