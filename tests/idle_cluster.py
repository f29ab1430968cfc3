"""A cluster without samplers or drivers, for tests of jobs that are to stand still."""


class IdleCluster:
    """A cluster where nothing ever starts."""

    async def submit(self, submission_id, command):
        pass

    async def status(self, submission_id):
        return None

    async def stop(self, submission_id):
        pass

    async def close(self):
        pass
