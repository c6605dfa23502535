"""Submitting a study: what it asks for, the code it runs, and the launch.

study    the study file, read and checked; its tasks
bundle   the code of a model, as a content-addressed archive
kept     what stays on this machine while the registry is away, and its delivery
client   JobSubmissionClient: upload, register, launch
"""
