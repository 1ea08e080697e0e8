"""SIGTERM: what runs is finished, what idles is told, nothing is left."""

import asyncio
import dataclasses
import signal

from pydicom.uid import generate_uid

from tests.dimse import wire
from tests.dimse.conftest import start_bridge
from tests.dimse.peers import encoded, instance
from tests.dimse.wire import CT, VERIFICATION, Wire
from tests.support import free_port


async def test_a_running_store_is_finished_and_others_are_aborted(dimse_settings, archive):
    bridge = start_bridge(dataclasses.replace(dimse_settings, dimse_port=free_port()))
    uid = generate_uid()
    data = encoded(instance(SOPInstanceUID=uid))
    with Wire(bridge.port) as storing, Wire(bridge.port) as idle, Wire(bridge.port) as silent:
        assert storing.associate(CT) == 2
        assert idle.associate(VERIFICATION) == 2
        storing.data(1, 3, wire.store_rq(CT, uid))
        storing.data(1, 0, data[:100])
        await asyncio.sleep(0.2)
        bridge.process.send_signal(signal.SIGTERM)
        assert idle.closed_within(5)
        assert silent.closed_within(5)
        assert bridge.process.poll() is None
        storing.data(1, 2, data[100:])
        assert storing.status() == 0
        assert storing.closed_within(5)
    assert bridge.process.wait(10) == 0, bridge.log.read_text()
    assert await archive.db.fetch_sql("SELECT 1 FROM instance WHERE sop_uid = $1", uid)
    assert "Traceback" not in bridge.log.read_text()
