"""The service's commands, a file each: importing one does not import the other."""
