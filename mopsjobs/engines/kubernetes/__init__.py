"""Run jobs as Indexed Jobs on Kubernetes."""
