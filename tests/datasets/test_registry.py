import sys

import pytest
import torch

from graphkit.datasets import PROTOCOLS, IndexSplit, LinkSplit, available, info, load
from graphkit.datasets.splits import undirected_pairs
from graphkit.transforms.tokenize import grid_edges


def test_a_typo_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"got 'Coora'.*did you mean 'Cora'"):
        load("Coora")
    with pytest.raises(ValueError, match="did you mean 'ogbl-ddi'"):
        info("ogbl_ddi")
    with pytest.raises(TypeError, match="name must be a string"):
        load(None)


def test_case_does_not_matter():
    assert load("PyImports").info is load("pyimports").info is info("PYIMPORTS")


def test_available_lists_facts_without_reading_anything(tmp_path):
    listed = available(tmp_path)
    assert {facts.name for facts, on_disk in listed if on_disk} == {
        *(
            "pyimports",
            "nycflights",
            "digits",
            "triadic-closure",
            "graphon-domains",
            "ring-transfer",
            "nycflights-hourly",
            "digit_images",
            "digit_canvases",
        ),
        *(
            "reset-majority",
            "associative-recall",
            "help-topics",
            "state-machine",
            "fit-exp",
            "fit-product",
            "fit-wave",
            "fit-bump",
            "bit-bags",
        ),
        *("sort-5", "sort-10", "convex-hull-5", "convex-hull-10", "delaunay-5", "tsp-10", "digit-paths"),
    }
    for facts, _ in listed:
        assert facts.task in ("node", "link", "graph", "temporal", "series", "token", "text", "regression", "pointing")
        assert facts.origin in ("shipped", "built", "file", "pyg", "ogb")
        assert set(facts.protocols) <= set(PROTOCOLS)
        assert facts.protocol
        assert facts.metric
        assert facts.licence
        assert facts.source
        assert facts.nodes > 0
        # Points of a function, bags of instances and problems of pointing have no edges.
        assert facts.edges > 0 or facts.task in ("regression", "pointing") or facts.name == "bit-bags"
    folder = tmp_path / "planetoid" / "Cora" / "raw"
    folder.mkdir(parents=True)
    assert ("Cora", False) in [(facts.name, on_disk) for facts, on_disk in available(tmp_path)]
    (folder / "ind.cora.x").write_text("")
    assert ("Cora", True) in [(facts.name, on_disk) for facts, on_disk in available(tmp_path)]


def test_shipped_graph_for_links():
    dataset = load("pyimports")
    split = dataset.split(seed=0)
    assert isinstance(split, LinkSplit)
    assert dataset.info.task == "link"
    assert split.num_nodes == dataset.info.nodes
    total = split.train_pos.size(1) + split.valid_pos.size(1) + split.test_pos.size(1)
    assert total == dataset.info.edges
    assert isinstance(dataset.split(seed=0, protocol="random"), IndexSplit)


def test_split_refuses_what_it_does_not_know():
    dataset = load("pyimports")
    with pytest.raises(ValueError, match=r"protocol must be one of link, .*did you mean 'link'"):
        dataset.split(0, "lnik")
    for seed in (-1, 1.5, True, None):
        with pytest.raises(ValueError, match="seed must be an integer"):
            dataset.split(seed)
    with pytest.raises(ValueError, match="no official evaluator"):
        dataset.evaluator()


def test_every_dataset_on_disk_has_the_stated_size(data_root):
    """Facts against files, and every protocol gives a split."""
    seen = 0
    for facts, on_disk in available(data_root):
        # The largest one takes seconds and gigabytes; the others are the same code.
        if not on_disk or facts.name == "Coauthor-CS":
            continue
        seen += 1
        dataset = load(facts.name, data_root)
        if "images" in facts.protocols:
            channels, height, width = dataset.graphs[0].image.shape
            assert len(dataset.graphs) == facts.graphs
            assert dataset.graphs.num_classes == facts.classes
            assert (height * width, channels) == (facts.nodes, facts.features)
            # Each pixel and the eight around it, without itself.
            assert (grid_edges(height, width).size(1) - height * width) / 2 == facts.edges
        elif facts.task == "token":
            data = dataset.graphs._data
            assert len(dataset.graphs) == facts.graphs
            inputs = data.x if data.x is not None else data.image
            assert inputs.numel() == data.y.numel() == facts.graphs * facts.nodes
            assert int(data.y.max()) + 1 == facts.classes
        elif facts.task == "text":
            # Python's help texts are other ones in other versions.
            if facts.name != "help-topics" or sys.version_info[:2] == (3, 11):
                assert dataset.data.num_nodes == facts.nodes
                assert int(dataset.data.x.max()) + 1 == facts.classes
        elif dataset.graphs is not None:
            data = dataset.graphs._data
            assert len(dataset.graphs) == facts.graphs
            digits = 1 if facts.origin == "ogb" else 2
            assert round(data.num_nodes / facts.graphs, digits) == facts.nodes
            assert round(data.num_edges / 2 / facts.graphs, digits) == facts.edges
            assert dataset.graphs.num_features == facts.features
            if facts.classes:
                assert dataset.graphs.num_classes == facts.classes
        elif facts.task == "series":
            assert list(dataset.data.series.shape) == [facts.edges, facts.nodes]
            assert dataset.data.num_nodes == len(dataset.data.names) == facts.nodes
        elif facts.task == "temporal":
            assert (dataset.data.num_nodes, dataset.data.num_events) == (facts.nodes, facts.edges)
            # Some copies of JODIE's files come without features.
            assert dataset.data.msg_dim in ((0, facts.features) if facts.name == "wikipedia" else (facts.features,))
        else:
            data = dataset.data
            assert data.num_nodes == facts.nodes
            assert (data.x is None and facts.features == 0) or data.num_features == facts.features
            if facts.classes:
                assert int(data.y.max()) + 1 == facts.classes
            if facts.name == "WN18RR":
                assert data.num_edges == facts.edges
            elif facts.origin != "ogb":
                assert undirected_pairs(data.edge_index, data.num_nodes).size(1) == facts.edges
        for protocol in facts.protocols:
            first, again = dataset.split(1, protocol), dataset.split(1, protocol)
            for part in ("train_pos", "valid_neg", "test_neg") if isinstance(first, LinkSplit) else ("train", "test"):
                assert torch.equal(getattr(first, part), getattr(again, part))
    assert seen > 3
