"""The command line, installed as xenpv_tools."""
