"""xl's disk grammar. The rows whose source is xl's own table (tools/xl/check-xl-disk-parse) are marked so."""

from __future__ import annotations

from typing import Any

import pytest

from xenpv.errors import UsageError
from xenpv_tools.diskspec import parse_disk

VOLUME = {"pdev_path": "/dev/vg/guest-volume", "vdev": "hda", "format": "raw", "readwrite": True}
CDROM = {"pdev_path": "/root/image.iso", "vdev": "hdc", "format": "raw", "readwrite": False, "removable": True,
         "is_cdrom": True}
EMPTY = {"pdev_path": "", "vdev": "hdc", "format": "empty", "readwrite": False, "removable": True, "is_cdrom": True}
NO_TARGET = {"vdev": "hdc", "format": "empty", "readwrite": False, "removable": True, "is_cdrom": True}
ISCSI = {"pdev_path": "iqn.2001-05.com.example:0-8a09-host", "vdev": "xvda", "format": "raw", "script": "block-iscsi",
         "readwrite": True}
IMAGE = {"pdev_path": "/some/disk/image.raw", "vdev": "hda", "format": "raw", "readwrite": True}

GOOD: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    # xl's own
    (("/dev/vg/guest-volume,,hda",), VOLUME),
    (("/dev/vg/guest-volume,raw,hda,rw",), VOLUME),
    (("format=raw, vdev=hda, access=rw, target=/dev/vg/guest-volume",), VOLUME),
    (("format=raw", "vdev=hda", "access=rw", "target=/dev/vg/guest-volume"), VOLUME),
    (("raw:/dev/vg/guest-volume,hda,w",), VOLUME),
    (("/root/image.iso,,hdc,cdrom",), CDROM),
    (("/root/image.iso,,hdc,,cdrom",), CDROM),
    (("/root/image.iso,raw,hdc,devtype=cdrom",), CDROM),
    (("format=raw, vdev=hdc, access=ro, devtype=cdrom, target=/root/image.iso",), CDROM),
    (("raw:/root/image.iso,hdc:cdrom,ro",), CDROM),
    (("backendtype=phy,vdev=hda,access=w,target=/dev/vg/guest-volume",), {**VOLUME, "backend": "phy"}),
    (("devtype=cdrom,,,hdc",), EMPTY),
    ((",,hdc:cdrom,r",), EMPTY),
    ((",hdc:cdrom,r",), EMPTY),
    (("vdev=hdc,access=r,devtype=cdrom,target=",), EMPTY),
    ((",empty,hdc:cdrom,r",), EMPTY),
    (("vdev=hdc,access=r,devtype=cdrom,format=empty",), NO_TARGET),
    (("vdev=hdc,access=r,devtype=cdrom",), NO_TARGET),
    (("iscsi:iqn.2001-05.com.example:0-8a09-host,xvda,w",), ISCSI),
    (("vdev=xvda,access=w,script=block-iscsi,target=iqn.2001-05.com.example:0-8a09-host",), ISCSI),
    (("drbd:app01,hda,w",), {**VOLUME, "pdev_path": "app01", "script": "block-drbd"}),
    (("discard", "vdev=hda", "target=/some/disk/image.raw"), {**IMAGE, "discard_enable": True}),
    (("trusted", "vdev=hda", "target=/some/disk/image.raw"), {**IMAGE, "trusted": True}),
    (("untrusted", "vdev=hda", "target=/some/disk/image.raw"), {**IMAGE, "trusted": False}),
    # ours
    (("phy:/dev/vg/guest-volume,hda,w",), VOLUME),
    (("file:/dev/vg/guest-volume,hda,w",), VOLUME),
    (("tap2:/dev/vg/guest-volume,hda,w",), VOLUME),
    (("tap:aio:/dev/vg/guest-volume,hda,w",), {**VOLUME}),
    (("qcow2:/a.img,xvda,r",), {"pdev_path": "/a.img", "vdev": "xvda", "format": "qcow2", "readwrite": False}),
    (("vdev=hda,target=/a,b=c,d",), {**IMAGE, "pdev_path": "/a,b=c,d"}),
    (("/some/disk/image.raw,,hda,w,no-discard,direct-io-safe,backend=storage,specification=xen",),
     {**IMAGE, "discard_enable": False, "direct_io_safe": True, "backend_domname": "storage", "specification": "xen"}),
    ((" /some/disk/image.raw,\traw, hda, rw",), IMAGE),
]

BAD = [
    ("foo", "no virtual device"),
    ("", "no virtual device"),
    (",raw,xvda,w", "no target"),
    ("/a,raw,xvdaaaaaaa", "no virtual device: want"),
    ("/a,zip,xvda", "format is 'zip'"),
    ("/a,raw,xvda,x", "access is 'x'"),
    ("/a,raw,xvda,w,more", "one too many"),
    ("/a,,xvda,vdev=xvdb", "vdev is given twice"),
    ("/a,raw,xvda,format=qcow2", "format is given twice"),
    ("/a,,xvda,colour=red", "unknown parameter 'colour'"),
    ("/a,,xvda,devtype=tape", "devtype is 'tape'"),
    ("/a,,xvda,backendtype=blktap", "backendtype is 'blktap'"),
    ("/a,,xvda,specification=nvme", "specification is 'nvme'"),
    ("/a,,hdc:tape", "type is 'tape'"),
    ("/a,,xvda,9=1", "is no parameter"),
    ("zfs:/a,xvda,w", "unknown prefix 'zfs:'"),
]


@pytest.mark.parametrize(("specs", "expected"), GOOD, ids=[" ".join(specs) for specs, _ in GOOD])
def test_spec_is_understood(specs: tuple[str, ...], expected: dict[str, Any]) -> None:
    assert parse_disk(*specs).to_json() == expected


@pytest.mark.parametrize(("spec", "cause"), BAD, ids=[spec for spec, _ in BAD])
def test_bad_spec_is_refused_in_words(spec: str, cause: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_disk(spec)
    assert cause in str(caught.value) and repr(spec) in str(caught.value) and "\n" not in str(caught.value)
