from pathlib import Path

import pytest
import torch

from fl_privacy_audit import Auditor
from fl_privacy_audit import Client as Who
from fl_privacy_audit.audit import ClientReply
from fl_privacy_audit.ledger import read_ledger
from fl_privacy_audit.ledger.ledger import last_run
from fl_privacy_audit.report.words import say
from fl_privacy_audit.verdicts.rules import judge_run
from fl_privacy_audit.verdicts.verdict import SettingVerdict
from tests.support.builders import audit_config, to_arrays

from .federations import FEDERATIONS, IMAGE, ROUNDS, Federation, pictures


def audited(federation: Federation, directory: Path) -> SettingVerdict:
    told = {
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "steps": 1,
        "batch_size": 1,
        "mode": "train",
        **federation.told,
    }
    config = audit_config(
        directory,
        **{
            "image": IMAGE,
            "attacks": ["first_linear"],
            "metrics": ["psnr", "ssim"],
            "controls": True,
            "clients_per_round": 1,
            "training": {name: value for name, value in told.items() if value is not None},
            **federation.audit,
        },
    )
    model, client = federation.model(), federation.client
    auditor = Auditor(config, model=model)
    for server_round in range(1, ROUNDS + 1):
        replies = []
        for partition in range(2):
            batch = pictures(2 * server_round + partition, client.images)
            rng = torch.Generator().manual_seed(server_round)
            torch.manual_seed(server_round)
            after = to_arrays(client.train(model, batch, rng))
            published = client.publish(batch)
            replies.append(
                ClientReply(
                    client=Who(partition, partition),
                    sent=lambda: to_arrays(model),
                    returned=lambda after=after: after,  # type: ignore[misc]
                    num_examples=client.images,
                    truth=lambda published=published: published,  # type: ignore[misc]
                )
            )
        auditor.audit_round(server_round, replies)
    (verdict,) = judge_run(last_run(read_ledger(directory)))
    return verdict


@pytest.mark.parametrize("name", FEDERATIONS)
def test_a_federation_that_nobody_here_wrote(name: str, tmp_path: Path) -> None:
    federation = FEDERATIONS[name]
    verdict = audited(federation, tmp_path)
    said = say(verdict.reason)
    assert verdict.word in federation.words, said
    if federation.code is not None:
        assert verdict.reason.code == federation.code, said
    if federation.fits is not None:
        assert verdict.replay is not None
        assert (verdict.replay.fitting == verdict.replay.records) is federation.fits
    if verdict.reason.code == "description does not fit":
        assert verdict.reason.cause is not None
    assert said and "?" not in said.replace("declared?", "")


def test_the_table_is_long_enough() -> None:
    assert len(FEDERATIONS) >= 45
