"""What `gpunet train penguins` does, as a short scikit-learn script: the best epoch on held-out
rows is kept and saved; prints the accuracy on the test rows as JSON."""

import json
import warnings

import joblib
import numpy as np
from penguins_table import arguments, read
from sklearn.neural_network import MLPClassifier


def main() -> None:
    given = arguments(__doc__)
    data = read(given.csv, given.parts)
    (x, y), (held_x, held_y) = data["train"], data["validation"]
    net = MLPClassifier(
        hidden_layer_sizes=tuple(map(int, given.hidden.split(","))),
        batch_size=given.batch,
        learning_rate_init=given.lr,
        max_iter=given.epochs,
        early_stopping=True,
        n_iter_no_change=given.epochs,
        validation_fraction=len(held_x) / (len(x) + len(held_x)),
        random_state=0,
    )
    warnings.filterwarnings("ignore", message=".*iterations.*")
    net.fit(np.concatenate((x, held_x)), np.concatenate((y, held_y)))
    joblib.dump(net, given.out / "model.joblib")
    x, y = data["test"]
    print(json.dumps({"accuracy": float(net.score(x, y))}))


if __name__ == "__main__":
    main()
