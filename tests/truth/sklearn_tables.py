"""The scores of scikit-learn on the tables of tests/tables: writes sklearn_tables.json beside this script.

    python tests/truth/sklearn_tables.py ../shared/data

It also writes the small tables of tests/tables, each of which has a defect that is common in public data sets. Every
run file NAME.toml there trains on the same rows, with the same preprocessing and the same objective, as table NAME here.
"""

import csv
import json
import pathlib
import random
import sys

import numpy
import sklearn
from sklearn.datasets import load_svmlight_file
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.preprocessing import StandardScaler

SHARED = pathlib.Path(sys.argv[1])
TABLES = pathlib.Path(__file__).parent.parent / "tables"
MISSING = {"", "NA", "NaN", "?"}


# The validation share, from docs/numerics.md, sections 1 and 2.


def philox(seed, purpose, index):
    key = [seed & 0xFFFFFFFF, seed >> 32]
    counter = [index & 0xFFFFFFFF, index >> 32, 0, purpose]
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [(b >> 32) ^ counter[1] ^ key[0], b & 0xFFFFFFFF, (a >> 32) ^ counter[3] ^ key[1], a & 0xFFFFFFFF]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return counter


def mix(x):
    x = (x ^ (x >> 16)) * 0x7FEB352D & 0xFFFFFFFF
    x = (x ^ (x >> 15)) * 0x846CA68B & 0xFFFFFFFF
    return x ^ (x >> 16)


def validation(n, share=0.2, seed=1):
    """Whether each of n rows belongs to the validation share."""
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    keys = philox(seed, 3, 0) + philox(seed, 3, 1)

    def at(position):
        v = position
        while True:
            left, right = v >> half, v & mask
            for key in keys:
                left, right = right, left ^ (mix(right ^ key) & mask)
            v = left << half | right
            if v < n:
                return v

    count = max(1, int(share * n + 0.5))
    apart = numpy.zeros(n, bool)
    apart[[at(position) for position in range(n - count, n)]] = True
    return apart


# Encoding.


def read(path, separator=",", names=None):
    with open(path, newline="") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file, delimiter=separator) if row]
    rows = [row for row in rows if len(row) > 1]
    header, rows = (names, rows) if names else (rows[0], rows[1:])
    return {name: [row[index] for row in rows] for index, name in enumerate(header)}


def numbers(cells, decimal="."):
    return numpy.array([numpy.nan if cell in MISSING else float(cell.replace(decimal, ".")) for cell in cells])


def number(cells, train, fill=None, decimal="."):
    values = numbers(cells, decimal)
    if fill is not None:
        known = numpy.sort(values[train][~numpy.isnan(values[train])])
        value = known[(len(known) - 1) // 2] if fill == "median" else known.mean() if fill == "mean" else fill
        values = numpy.where(numpy.isnan(values), value, values)
    return values[:, None]


def clipped(cells, train, low, high):
    values = numbers(cells)
    known = numpy.sort(values[train])
    return numpy.clip(values, known[low * (len(known) - 1) // 100], known[high * (len(known) - 1) // 100])[:, None]


def category(cells, learned=None, min_count=1):
    learned = cells if learned is None else learned
    known = sorted({cell for cell in learned if cell not in MISSING and learned.count(cell) >= min_count}) \
        if min_count > 1 else sorted(set(learned) - MISSING)
    features = numpy.array([[float(cell == name) for name in known] for cell in cells])
    if min_count > 1:
        rare = [[float(cell not in MISSING and cell not in known)] for cell in cells]
        features = numpy.hstack([features, rare])
    return features


# Scores.


def score(x, y, test, is_number=False):
    """The score on the rows `test` of a linear model of the others, with the objective of the run files."""
    scaler = StandardScaler().fit(x[~test])
    x = scaler.transform(x)
    if is_number:
        fitted = LinearRegression().fit(x[~test], y[~test])
        return {"rmse": float(numpy.sqrt(numpy.mean((fitted.predict(x[test]) - y[test]) ** 2)))}
    fitted = LogisticRegression(C=1.0, tol=1e-8, max_iter=20000).fit(x[~test], y[~test])
    return {"accuracy": float(fitted.score(x[test], y[test]))}


def shared():
    """The tables of the folder of data sets."""
    for name, file, label in [
        ("iris", "iris/iris.csv", "species"),
        ("breast_cancer", "breast-cancer/breast_cancer.csv", "diagnosis"),
        ("digits", "digits/digits.csv", "digit"),
        ("diabetes", "diabetes/diabetes.csv", "progression"),
    ]:
        table = read(SHARED / file)
        target = table.pop(label)
        x = numpy.hstack([number(cells, None) for cells in table.values()])
        is_number = name == "diabetes"
        y = numbers(target) if is_number else numpy.array(target)
        yield name, score(x, y, validation(len(y)), is_number)

    table = read(SHARED / "penguins/penguins.csv")
    test = validation(len(table["species"]))
    x = numpy.hstack([
        category(table["island"]),
        *(number(table[name], ~test, "median")
          for name in ["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"]),
        category(table["sex"]),
    ])
    yield "penguins", score(x, numpy.array(table["species"]), test)

    table = read(SHARED / "california-housing/housing.csv")
    y = numbers(table.pop("median_house_value"))
    test = validation(len(y))
    places = category(table.pop("ocean_proximity"))
    x = numpy.hstack([*(number(cells, ~test, "median") for cells in table.values()), places])
    yield "housing", score(x, y, test, True)

    tables = [read(SHARED / "adult" / file) for file in ["adult_train.csv", "adult_test.csv"]]
    train, both = tables[0], {name: tables[0][name] + tables[1][name] for name in tables[0]}
    test = numpy.arange(len(both["age"])) >= len(train["age"])
    y = numpy.array([label.rstrip(".") for label in both.pop("class")])
    is_text = {name for name in both if any(cell.strip("-").isalpha() for cell in train[name] if cell != "NA")}
    x = numpy.hstack([
        category(cells, train[name]) if name in is_text else number(cells, ~test) for name, cells in both.items()
    ])
    yield "adult", score(x, y, test)

    for name, train, test in [
        ("a9a", "a9a/a9a", "a9a/a9a.t"),
        ("agaricus", "agaricus/agaricus.txt.train", "agaricus/agaricus.txt.test"),
    ]:
        x, y = load_svmlight_file(str(SHARED / train))
        more, labels = load_svmlight_file(str(SHARED / test), n_features=x.shape[1])
        fitted = LogisticRegression(C=1.0, tol=1e-8, max_iter=20000).fit(x, y)
        yield name, {"accuracy": float(fitted.score(more, labels))}


# Small tables with the defects of well-known ones.


def write(name, lines):
    (TABLES / name).write_text("\n".join(lines) + "\n")


def titanic(some):
    lines = ["PassengerId,Survived,Pclass,Name,Sex,Age,Ticket,Fare,Embarked"]
    for row in range(1, 401):
        sex, pclass = some.choice(["male", "female"]), some.choice([1, 2, 3, 3])
        age = "" if some.random() < 0.2 else f"{some.uniform(1, 70):.1f}"
        survived = some.random() < (0.75 if sex == "female" else 0.2) - 0.1 * (pclass - 2)
        name = f'"Name {row}, {"Mr." if sex == "male" else "Mrs."} ""N"" {some.random():.6f}"'
        fare = some.expovariate(pclass / 60)
        lines.append(f"{row},{survived:d},{pclass},{name},{sex},{age},T/{some.randrange(10 ** 6)},{fare:.4f},"
                     f"{some.choice('SSSCQ') if row % 97 else ''}")
    write("titanic.csv", lines)
    table = read(TABLES / "titanic.csv")
    test = validation(400)
    x = numpy.hstack([
        category(table["Pclass"]), category(table["Sex"]), number(table["Age"], ~test, "median"),
        clipped(table["Fare"], ~test, 1, 99), category(table["Embarked"]),
    ])
    return score(x, numpy.array(table["Survived"]), test)


def wine(some):
    lines = ['"fixed acidity";"pH";"alcohol";"quality"']
    for _ in range(300):
        acidity, ph, alcohol = some.uniform(4, 12), some.uniform(2.8, 3.8), some.uniform(8, 14)
        quality = round(0.6 * alcohol - 0.2 * acidity + ph + some.gauss(0, 0.7) - 2)
        lines.append(f"{acidity:.1f};{ph:.2f};{alcohol:.1f};{quality}")
    write("wine.csv", lines)
    table = read(TABLES / "wine.csv", ";")
    y = numbers(table.pop("quality"))
    return score(numpy.hstack([number(cells, None) for cells in table.values()]), y, validation(300), True)


def abalone(some):
    names, lines = ["sex", "length", "weight", "rings"], []
    for _ in range(300):
        sex, length = some.choice("MFI"), some.uniform(0.1, 0.8)
        weight = 4 * length ** 3 * some.uniform(0.8, 1.2)
        rings = round(3 + 10 * length + 2 * weight + (sex == "F") + some.gauss(0, 1.5))
        lines.append(f"{sex},{length:.3f},{weight:.4f},{rings}")
    write("abalone.csv", lines)
    table = read(TABLES / "abalone.csv", names=names)
    x = numpy.hstack([category(table["sex"]), number(table["length"], None), number(table["weight"], None)])
    return score(x, numbers(table["rings"]), validation(300), True)


def imports(some):
    names, lines = ["symboling", "losses", "make", "doors", "horsepower", "price"], []
    for _ in range(320):
        make, power = some.choice(["audi", "bmw", "mazda", "volvo", "saab"]), some.randrange(50, 250)
        price = 2000 + 90 * power + 3000 * (make in ["audi", "bmw"]) + some.gauss(0, 1500)
        gaps = [cell if some.random() > share else "?" for cell, share in [
            (some.randrange(60, 250), 0.2), (some.choice(["two", "four"]), 0.05), (power, 0.05), (round(price), 0.05)]]
        lines.append(f"{some.randrange(-2, 4)},{gaps[0]},{make},{gaps[1]},{gaps[2]},{gaps[3]}")
    write("imports.csv", lines)
    table = read(TABLES / "imports.csv", names=names)
    known = [row for row, price in enumerate(table["price"]) if price != "?"]
    table = {name: [cells[row] for row in known] for name, cells in table.items()}
    test = validation(len(known))
    x = numpy.hstack([
        number(table["symboling"], None), number(table["losses"], ~test, "mean"), category(table["make"]),
        category(table["doors"]), number(table["horsepower"], ~test, "mean"),
    ])
    return score(x, numbers(table["price"]), test, True)


def census(some):
    names, files = ["age", "workclass", "hours", "country", "income"], []
    for count, name in [(400, "census.data"), (200, "census.test")]:
        lines = ["|1x3 Cross validator"] if name == "census.test" else []
        for _ in range(count):
            age, hours = some.randrange(17, 90), some.randrange(10, 80)
            work = some.choice(["Private", "State-gov", "Self-emp-inc", "?"])
            country = some.choice(["United-States"] * 6 + ["Mexico", "Cuba", f"Land-{some.randrange(40)}"])
            rich = age / 40 + hours / 30 + (work == "Self-emp-inc") + some.gauss(0, 0.7) > 3
            label = (">50K" if rich else "<=50K") + ("." if name == "census.test" else "")
            lines.append(f"{age}, {work}, {hours}, {country}, {label}")
        write(name, lines + [""])
        files.append(read(TABLES / name, names=names))
    train, both = files[0], {name: files[0][name] + files[1][name] for name in names}
    test = numpy.arange(600) >= 400
    y = numpy.array([label.rstrip(".") for label in both["income"]])
    x = numpy.hstack([
        number(both["age"], None), category(both["workclass"], train["workclass"]), number(both["hours"], None),
        category(both["country"], train["country"], 10),
    ])
    return score(x, y, test)


def air(some):
    lines = ["No,time,pm2.5,DEWP,TEMP,cbwd"]
    for hour in range(500):
        day, temp, dew = hour // 24 + 1, some.uniform(-10, 30), some.uniform(-20, 10)
        wind = some.choice(["NW", "SE", "cv"])
        dust = 80 + 2 * dew - temp + 20 * (wind == "cv") + hour % 24 + some.gauss(0, 15)
        cell = "NA" if some.random() < 0.1 else f"{max(dust, 0):.0f}"
        lines.append(f"{hour + 1},2010-{1 + day // 28:02}-{1 + day % 28:02} {hour % 24:02}:00,{cell},{dew:.0f},"
                     f"{temp:.0f},{wind}")
    write("air.csv", lines)
    table = read(TABLES / "air.csv")
    known = [row for row, dust in enumerate(table["pm2.5"]) if dust != "NA"]
    table = {name: [cells[row] for row in known] for name, cells in table.items()}
    dates = [(float(time[5:7]), float(time[11:13])) for time in table["time"]]
    x = numpy.hstack([dates, number(table["DEWP"], None), number(table["TEMP"], None), category(table["cbwd"])])
    return score(x, numbers(table["pm2.5"]), validation(len(known)), True)


def german(some):
    lines = ["fläche;zimmer;miete"]
    for _ in range(300):
        area, rooms = some.uniform(20, 150), some.randrange(1, 7)
        rent = 200 + 9.5 * area + 20 * rooms + some.gauss(0, 60)
        lines.append(f"{area:.1f};{rooms};{rent:.2f}".replace(".", ","))
    write("rents.csv", lines)
    table = read(TABLES / "rents.csv", ";")
    y = numbers(table.pop("miete"), ",")
    return score(numpy.hstack([number(cells, None, decimal=",") for cells in table.values()]), y, validation(300), True)


def pulses(some):
    lines = ["# one file for training and test"]
    for row in range(500):
        x, y = some.gauss(0, 1), some.gauss(0, 1)
        lines.append(f"  {x:8.4f} {y:8.4f}   {int(x + 0.5 * y + some.gauss(0, 0.5) > 0)}")
    write("pulses.txt", lines)
    rows = numpy.array([line.split() for line in lines[1:]], float)
    return score(rows[:, :2], rows[:, 2], numpy.arange(500) >= 400)


found = {"made_with": f"scikit-learn {sklearn.__version__}"}
found.update(shared())
for seed, (name, make) in enumerate({
    "titanic": titanic, "wine": wine, "abalone": abalone, "imports": imports, "census": census, "air": air,
    "rents": german, "pulses": pulses,
}.items()):
    found[name] = make(random.Random(seed))
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
