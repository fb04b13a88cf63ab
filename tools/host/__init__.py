"""What stock xl needs on a Xen host to give disks to our backend: the hotplug script and a service."""
