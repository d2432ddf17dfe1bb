import numpy as np
import pytest
from scipy.spatial import procrustes
from sklearn.decomposition import PCA

from finetune.analysis.pca_map import align, project


def test_the_axes_equal_scikit_learn() -> None:
    emb = np.random.default_rng(0).standard_normal((50, 8)) * np.arange(1, 9)
    theirs = PCA(2).fit_transform(emb)
    assert np.abs(project(emb)) == pytest.approx(np.abs(theirs))


def test_rotation_and_mirroring_are_undone() -> None:
    place = project(np.random.default_rng(0).standard_normal((40, 5)))
    turn = np.array([[np.cos(2), -np.sin(2)], [np.sin(2), np.cos(2)]]) @ np.diag([1, -1])
    assert align(place @ turn, place) == pytest.approx(place)


def test_the_alignment_equals_scipy() -> None:
    random = np.random.default_rng(1)
    place = project(random.standard_normal((40, 5)))
    moved = project(place @ np.array([[0, 1], [1, 0]]) + 0.3 * random.standard_normal((40, 2)))
    both = [one / np.linalg.norm(one) for one in (place, moved)]
    near = np.linalg.norm(align(both[1], both[0]) - both[0]) ** 2
    # SciPy also scales, by the cosine c of the two, so its residual is 1 - c^2 where ours is 2 - 2 c.
    cosine = 1 - near / 2
    assert 1 - cosine**2 == pytest.approx(procrustes(*both)[2])


def test_too_few_for_two_axes() -> None:
    assert project(np.array([[1.0], [2.0], [4.0]]))[:, 1].tolist() == [0, 0, 0]
    assert project(np.ones((1, 3))).tolist() == [[0, 0]]
