"""A privacy budget that ends a run leaves a whole ledger of the rounds before."""

from pathlib import Path

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg

from fl_privacy_audit.dp.run_check import STRATEGY, check_run, reported_epsilons
from fl_privacy_audit.ledger import last_run, read_ledger
from fl_privacy_audit.strategies import AuditedStrategy
from fl_privacy_audit.strategies.stated import stated_by
from tests.support.builders import real_auditor, tiny_net
from tests.support.grid import InProcessGrid

serverapp = pytest.importorskip("flwr.serverapp")


@pytest.mark.skipif(not hasattr(serverapp, "RdpAccountant"), reason="this Flower counts no epsilon")
def test_every_round_before_the_budget_is_spent_is_in_the_ledger(tmp_path: Path) -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = message.content.array_records["arrays"].to_torch_state_dict()
        moved = ArrayRecord({name: tensor + 0.01 for name, tensor in arrays.items()})
        metrics = MetricRecord({"num-examples": 4})
        return Message(RecordDict({"arrays": moved, "metrics": metrics}), reply_to=message)

    accountant = serverapp.RdpAccountant(
        serverapp.PrivacyConfig(
            target_delta=1e-5,
            population_size=2,
            sampling_method=serverapp.SamplingMethod.NO_AMPLIFICATION,
            neighboring_relation=serverapp.NeighboringRelation.ADD_OR_REMOVE_ONE,
            max_epsilon=7.0,
        )
    )
    private = DifferentialPrivacyServerSideFixedClipping(
        FedAvg(fraction_evaluate=0.0), 1.0, 0.5, 2, accountant=accountant
    )
    auditor = real_auditor(tmp_path / "audit", clients_per_round="all")
    audited = AuditedStrategy(private, auditor=auditor)
    with pytest.raises(Exception, match="max_epsilon"):
        audited.start(
            grid=InProcessGrid(app, 2),
            initial_arrays=ArrayRecord(tiny_net().state_dict()),
            num_rounds=9,
            train_config=ConfigRecord({}),
        )
    ledger = read_ledger(tmp_path / "audit")
    assert (len(ledger.runs), ledger.gaps, ledger.damaged) == (1, (), ())
    rounds = [record.round for record in ledger.audits]
    releases = accountant.get_privacy_spent().num_releases
    assert releases >= 1
    assert rounds == [number for number in range(1, releases + 1) for _ in range(2)]
    # What the accountant counted is read, not typed.
    run = last_run(ledger)
    check = check_run(run)
    assert check is not None
    assert (check.mechanism, check.claimed, check.delta) == ("central-gaussian", 7.0, 1e-5)
    assert run.run.claim_read["by"] == "DifferentialPrivacyServerSideFixedClipping"
    spent = reported_epsilons(run)[STRATEGY]
    assert [number for number, _ in spent] == [*range(1, releases + 1)]
    assert spent[-1][1] == accountant.get_privacy_spent().epsilon
    assert not check.flags
    assert check.clients[0].cumulative.rdp == pytest.approx(spent[-1][1], rel=0.02)
    stated = stated_by([private], {}, released=True)
    assert stated.spent == accountant.get_privacy_spent().epsilon <= 7.0
    assert stated.delta == 1e-5
