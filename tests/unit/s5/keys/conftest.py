"""Properties are held to what they say, not to how busy this machine is."""

from hypothesis import HealthCheck, settings

settings.register_profile("s5", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("s5")
