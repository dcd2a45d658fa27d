"""scikit-learn's MLP as a contestant: partial_fit, an epoch a call, on rows put in order."""

import numpy as np
import sklearn
from bench.work import Given
from sklearn.neural_network import MLPClassifier, MLPRegressor

ACTIVATIONS = {"relu": "relu", "sigmoid": "logistic"}


class ScikitLearn:
    """Refuses networks without biases: it has none."""

    draws_its_order = False

    def __init__(self, given: Given, threads: int, where: str) -> None:
        self.work = work = given.work
        if not work.bias:
            raise NotImplementedError("has no networks without biases")
        sklearn.set_config(assume_finite=True)
        self.x, self.y = given.numbers(), given.y
        if work.data == "table":
            self.y = self.y.ravel()
        kind = MLPClassifier if work.data == "images" else MLPRegressor
        self.net = kind(
            hidden_layer_sizes=work.hidden,
            activation=ACTIVATIONS[work.activation],
            batch_size=work.batch,
            learning_rate_init=work.lr,
            alpha=0.0,
            shuffle=False,
        )
        self.more = {"classes": np.unique(self.y)} if work.data == "images" else {}
        self._take_weights(given)

    def _take_weights(self, given: Given) -> None:
        """A first step makes the arrays; then they get the weights, and the optimiser is new."""
        self.net.partial_fit(self.x[: self.work.batch], self.y[: self.work.batch], **self.more)
        for place, (weight, bias) in enumerate(given.layers()):
            self.net.coefs_[place][...] = weight
            self.net.intercepts_[place][...] = bias
        del self.net._optimizer

    def epoch(self, epoch: int, order: np.ndarray) -> float:
        """The mean loss of a row; its squares are halved."""
        self.net.partial_fit(self.x[order], self.y[order], **self.more)
        return float(self.net.loss_) * (1 if self.work.data == "images" else 2)
