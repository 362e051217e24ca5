/* A second program for docs/numerics.md.
 *
 * Written from that page and from nothing else, in plain C11 with only the C library: one thread, no blocking, no
 * vectors. It trains a model on a CSV, LIBSVM or pair of plain IDX files and prints the SHA-256 of the weights, which
 * has to be the one that every other driver of the same run prints. Section numbers below are the page's. It checks
 * little of its input, and takes no quotes in CSV and no comments in LIBSVM files.
 *
 *   cc -O2 -std=c11 -ffp-contract=off downhill.c -o downhill -lm
 *   ./downhill csv=iris.csv label=species head=softmax seed=1 epochs=3 batch=32 leaf=8 initial=0.1
 *
 * Compiling with -ffp-contract=off matters: a compiler that fuses a*b + c by itself rounds once where the page
 * rounds twice.
 */
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LAYERS 64

static void fail(const char *what, const char *detail) {
    fprintf(stderr, "%s: %s\n", what, detail);
    exit(1);
}

static void *room(size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size);
    if (!memory) fail("out of memory", "");
    return memory;
}

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static float number_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

/* ---- settings: key=value arguments, named as in a run file -------------------------------------------------- */

static int argument_count;
static char **arguments;

static const char *setting(const char *key, const char *otherwise) {
    size_t length = strlen(key);
    for (int i = 1; i < argument_count; i++)
        if (!strncmp(arguments[i], key, length) && arguments[i][length] == '=') return arguments[i] + length + 1;
    return otherwise;
}

static double real(const char *key, const char *otherwise) { return strtod(setting(key, otherwise), NULL); }
static uint64_t whole(const char *key, const char *otherwise) { return strtoull(setting(key, otherwise), NULL, 10); }
static bool yes(const char *key) { return !strcmp(setting(key, "false"), "true"); }
static bool is(const char *key, const char *otherwise, const char *value) {
    return !strcmp(setting(key, otherwise), value);
}

/* ---- 1. random numbers -------------------------------------------------------------------------------------- */

enum { ORDER = 1, INIT = 2, VALIDATION = 3, NOISE = 7, DROPOUT = 8 };

static void random_words(uint64_t seed, uint32_t purpose, uint32_t epoch, uint64_t index, uint32_t word[4]) {
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t counter[4] = {(uint32_t)index, (uint32_t)(index >> 32), epoch, purpose};
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * counter[0];
        uint64_t b = (uint64_t)0xCD9E8D57u * counter[2];
        uint32_t next[4] = {(uint32_t)(b >> 32) ^ counter[1] ^ key[0], (uint32_t)b,
                            (uint32_t)(a >> 32) ^ counter[3] ^ key[1], (uint32_t)a};
        memcpy(counter, next, sizeof counter);
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
    memcpy(word, counter, sizeof counter);
}

/* ---- 2. sample order ---------------------------------------------------------------------------------------- */

typedef struct {
    uint64_t n;
    int half;
    uint32_t key[8];
} Order;

static Order order_of(uint64_t seed, uint32_t purpose, uint32_t epoch, uint64_t n) {
    Order order = {.n = n};
    int b = 0;
    for (uint64_t rest = n - 1; rest; rest >>= 1) b++;
    order.half = (b + 1) / 2 > 1 ? (b + 1) / 2 : 1;
    random_words(seed, purpose, epoch, 0, order.key);
    random_words(seed, purpose, epoch, 1, order.key + 4);
    return order;
}

static uint32_t mix(uint32_t x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ x >> 16;
}

static uint64_t sample_at(const Order *order, uint64_t position) {
    uint64_t mask = ((uint64_t)1 << order->half) - 1, v = position;
    do {
        uint64_t left = v >> order->half, right = v & mask;
        for (int i = 0; i < 8; i++) {
            uint64_t next = left ^ (mix((uint32_t)right ^ order->key[i]) & mask);
            left = right;
            right = next;
        }
        v = left << order->half | right;
    } while (v >= order->n);
    return v;
}

/* ---- 3. samples --------------------------------------------------------------------------------------------- */

typedef struct {
    uint64_t n, width, classes;
    float *x; /* [n, width] */
    float *y; /* [n], class numbers for logistic and softmax heads */
} Samples;

static char *contents(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (!file) fail("cannot open", path);
    char *text = NULL;
    size_t held = 0, got;
    do {
        text = realloc(text, held + 65537);
        if (!text) fail("out of memory", path);
        got = fread(text + held, 1, 65536, file);
        held += got;
    } while (got);
    fclose(file);
    text[held] = 0;
    *size = held;
    return text;
}

static uint32_t big_endian(const char *at) {
    const unsigned char *b = (const unsigned char *)at;
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

static Samples read_idx(const char *images, const char *labels) {
    size_t size;
    char *pixels = contents(images, &size), *marks = contents(labels, &size);
    if (big_endian(pixels) != 0x803 || big_endian(marks) != 0x801) fail("not a pair of IDX files", images);
    Samples s = {.n = big_endian(pixels + 4), .width = (uint64_t)big_endian(pixels + 8) * big_endian(pixels + 12)};
    s.x = room(s.n * s.width, sizeof(float));
    s.y = room(s.n, sizeof(float));
    for (uint64_t i = 0; i < s.n * s.width; i++) s.x[i] = (float)(unsigned char)pixels[16 + i] / 255.0f;
    for (uint64_t i = 0; i < s.n; i++) {
        s.y[i] = (float)(unsigned char)marks[8 + i];
        if (s.y[i] + 1 > s.classes) s.classes = (uint64_t)s.y[i] + 1;
    }
    free(pixels);
    free(marks);
    return s;
}

static bool is_number(const char *text) {
    char *end;
    return isfinite(strtod(text, &end)) && *text && !*end;
}

static bool is_missing(const char *text) {
    static const char *const markers[] = {
        "", "?", "NA", "N/A", "n/a", "NULL", "null", "None", "-NaN", "-nan", "<NA>", "#NA", "#N/A", "#N/A N/A",
        "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN",
    };
    for (size_t i = 0; i < sizeof markers / sizeof *markers; i++)
        if (!strcmp(text, markers[i])) return true;
    return (text[0] | 32) == 'n' && (text[1] | 32) == 'a' && (text[2] | 32) == 'n' && !text[3];
}

/* Texts, compared as numbers where all are. */
typedef struct {
    char **text;
    uint64_t count;
    bool numbers;
} Texts;

static bool as_numbers;

static int by_value(const void *left, const void *right) {
    const char *a = *(char *const *)left, *b = *(char *const *)right;
    if (!as_numbers) return strcmp(a, b);
    double x = strtod(a, NULL), y = strtod(b, NULL);
    return (x > y) - (x < y);
}

/* The distinct ones among `count` texts, sorted; missing ones left out. */
static Texts distinct(char *const *from, uint64_t count) {
    Texts set = {.text = room(count, sizeof(char *)), .numbers = true};
    uint64_t held = 0;
    for (uint64_t i = 0; i < count; i++) {
        if (is_missing(from[i])) continue;
        set.text[held++] = from[i];
        set.numbers &= is_number(from[i]);
    }
    as_numbers = set.numbers;
    qsort(set.text, held, sizeof(char *), by_value);
    for (uint64_t i = 0; i < held; i++)
        if (!i || by_value(&set.text[set.count - 1], &set.text[i])) set.text[set.count++] = set.text[i];
    return set;
}

static uint64_t place_in(const Texts *set, char *text) {
    as_numbers = set->numbers;
    char **found = bsearch(&text, set->text, set->count, sizeof(char *), by_value);
    if (!found) fail("not known", text);
    return (uint64_t)(found - set->text);
}

/* Targets from labels: class numbers, or their values. */
static void set_targets(Samples *s, char **labels, bool classes) {
    Texts known = distinct(labels, s->n);
    s->y = room(s->n, sizeof(float));
    for (uint64_t i = 0; i < s->n; i++)
        s->y[i] = classes ? (float)place_in(&known, labels[i]) : strtof(labels[i], NULL);
    s->classes = known.count;
    free(known.text);
}

/* Cuts `text` at commas and line ends, and blanks off both ends of each cell. */
static uint64_t cut(char *text, char **cell) {
    uint64_t cells = 0;
    for (char *at = text; *at;) {
        char *end = at + strcspn(at, ",\n"), *next = *end ? end + 1 : end;
        while (*at == ' ' || *at == '\t') at++;
        while (end > at && (end[-1] == ' ' || end[-1] == '\t' || end[-1] == '\r')) end--;
        *end = 0;
        cell[cells++] = at;
        at = next;
    }
    return cells;
}

/* A header, then cells without quotes. Missing cells become NaN. */
static Samples read_csv(const char *path, const char *label, bool classes) {
    size_t size;
    char *text = contents(path, &size);
    uint64_t columns = 1, most = 1;
    for (char *c = text; *c && *c != '\n'; c++) columns += *c == ',';
    for (size_t i = 0; i < size; i++) most += text[i] == ',' || text[i] == '\n';
    char **cell = room(most, sizeof *cell);
    uint64_t cells = cut(text, cell), target = 0;
    if (!cells || cells % columns) fail("lines differ in length", path);
    while (target < columns && strcmp(cell[target], label)) target++;
    if (target == columns) fail("no column", label);

    Samples s = {.n = cells / columns - 1};
    Texts *known = room(columns, sizeof *known);
    char **column = room(s.n * columns, sizeof *column); /* [columns, n] */
    for (uint64_t c = 0; c < columns; c++) {
        for (uint64_t i = 0; i < s.n; i++) column[c * s.n + i] = cell[(i + 1) * columns + c];
        known[c] = distinct(column + c * s.n, s.n);
        if (known[c].numbers) known[c].count = 1;
        if (c != target) s.width += known[c].count;
    }
    s.x = room(s.n * s.width, sizeof(float));
    uint64_t first = 0;
    for (uint64_t c = 0; c < columns; c++) {
        for (uint64_t i = 0; i < s.n && c != target; i++) {
            char *value = column[c * s.n + i];
            float *x = s.x + i * s.width + first;
            if (is_missing(value))
                for (uint64_t k = 0; k < known[c].count; k++) x[k] = NAN;
            else if (known[c].numbers) x[0] = strtof(value, NULL);
            else x[place_in(&known[c], value)] = 1.0f;
        }
        if (c != target) first += known[c].count;
        free(known[c].text);
    }
    set_targets(&s, column + target * s.n, classes);
    free(known);
    free(column);
    free(cell);
    free(text);
    return s;
}

/* Lines of a label and index:value pairs. */
static Samples read_libsvm(const char *path, bool classes) {
    size_t size;
    char *text = contents(path, &size);
    Samples s = {0};
    for (size_t i = 0; i < size; i++) s.n += text[i] == '\n';
    char **label = room(s.n, sizeof *label);
    for (int pass = 0; pass < 2; pass++) { /* The first finds the width, the second cuts the labels off. */
        char *at = text;
        for (uint64_t i = 0; i < s.n; i++) {
            label[i] = at;
            at += strcspn(at, " \n");
            char *label_end = at;
            while (*at == ' ') {
                at += strspn(at, " ");
                if (*at == '\n') break;
                uint64_t index = strtoull(at, &at, 10);
                float value = strtof(at + 1, &at);
                if (pass) s.x[i * s.width + index - 1] = value;
                else if (index > s.width) s.width = index;
            }
            at++;
            if (pass) *label_end = 0;
        }
        if (!pass) s.x = room(s.n * s.width, sizeof(float));
    }
    set_targets(&s, label, classes);
    free(label);
    free(text);
    return s;
}

/* The samples whose flag is `wanted`, in their order. */
static Samples part(const Samples *all, const bool *flag, bool wanted) {
    Samples s = {.width = all->width, .classes = all->classes};
    s.x = room(all->n * all->width, sizeof(float));
    s.y = room(all->n, sizeof(float));
    for (uint64_t i = 0; i < all->n; i++) {
        if (flag[i] != wanted) continue;
        memcpy(s.x + s.n * s.width, all->x + i * s.width, s.width * sizeof(float));
        s.y[s.n++] = all->y[i];
    }
    return s;
}

static void split(const Samples *all, double share, uint64_t seed, Samples *training, Samples *validation) {
    bool *held_out = room(all->n, sizeof *held_out);
    uint64_t k = 0;
    if (share > 0) {
        k = (uint64_t)round(share * (double)all->n);
        if (k < 1) k = 1;
    }
    Order order = order_of(seed, VALIDATION, 0, all->n);
    for (uint64_t p = all->n - k; p < all->n; p++) held_out[sample_at(&order, p)] = true;
    *training = part(all, held_out, false);
    *validation = part(all, held_out, true);
    free(held_out);
}

/* Missing features become the mean of those of the training set that are not. */
static void fill_missing(Samples *training, Samples *validation) {
    for (uint64_t j = 0; j < training->width; j++) {
        double sum = 0;
        uint64_t known = 0;
        for (uint64_t i = 0; i < training->n; i++) {
            float x = training->x[i * training->width + j];
            if (x == x) {
                sum += (double)x;
                known++;
            }
        }
        float mean = (float)(sum / (double)known);
        Samples *both[2] = {training, validation};
        for (int b = 0; b < 2; b++)
            for (uint64_t i = 0; i < both[b]->n; i++) {
                float *x = &both[b]->x[i * training->width + j];
                if (*x != *x) *x = mean;
            }
    }
}

static void standardize(Samples *training, Samples *validation) {
    for (uint64_t j = 0; j < training->width; j++) {
        double sum = 0, squares = 0, n = (double)training->n;
        for (uint64_t i = 0; i < training->n; i++) sum += (double)training->x[i * training->width + j];
        double mean = sum / n;
        for (uint64_t i = 0; i < training->n; i++) {
            double off = (double)training->x[i * training->width + j] - mean;
            squares += off * off;
        }
        double variance = squares / n;
        float inverse = (float)(variance == 0 ? 1 : 1 / sqrt(variance)), middle = (float)mean;
        Samples *both[2] = {training, validation};
        for (int b = 0; b < 2; b++)
            for (uint64_t i = 0; i < both[b]->n; i++) {
                float *x = &both[b]->x[i * training->width + j];
                *x = (*x - middle) * inverse;
            }
    }
}

/* ---- 5. functions ------------------------------------------------------------------------------------------- */

static float exp_(float x) {
    if (x != x) return x;
    if (x > 88.0f) return INFINITY;
    if (x < -87.0f) return 0.0f;
    float t = fmaf(x, 1.4426950408889634f, 12582912.0f), n = t - 12582912.0f;
    float r = fmaf(n, -0.693359375f, x);
    r = fmaf(n, 2.1219444e-4f, r);
    float q = 0.0013950603f;
    q = fmaf(q, r, 0.008368953f);
    q = fmaf(q, r, 0.041666206f);
    q = fmaf(q, r, 0.16666518f);
    q = fmaf(q, r, 0.5f);
    float y = fmaf(r * r, q, r) + 1.0f;
    return y * number_of((uint32_t)((int32_t)n + 127) << 23);
}

static float ln_(float x) {
    if (x != x || x < 0.0f) return NAN;
    if (x == 0.0f) return -INFINITY;
    if (x == INFINITY) return x;
    uint32_t u = bits_of(x) - 0x3f3504f3u;
    /* An arithmetic shift, written out because C leaves that of a negative number to the compiler. */
    int32_t shifted = (int32_t)(u >> 23) - (u >> 31 ? 512 : 0);
    float e = (float)shifted, f = number_of((u & 0x7fffffu) + 0x3f3504f3u) - 1.0f;
    static const float c[] = {0.12885852f, -0.13130449f, 0.141807f,    -0.16624349f,
                              0.20002303f, -0.25000817f, 0.33333316f};
    float p = -0.078599475f;
    for (int i = 0; i < 7; i++) p = fmaf(p, f, c[i]);
    float s = f * f, y = fmaf(f * s, p, e * -2.1219444e-4f);
    y = fmaf(s, -0.5f, y) + f;
    return fmaf(e, 0.693359375f, y);
}

static float tanh_(float x) {
    float a = fabsf(x), s = x * x, result;
    if (a < 0.625f) {
        float p = -0.0057170452f;
        p = fmaf(p, s, 0.020650588f);
        p = fmaf(p, s, -0.053743497f);
        p = fmaf(p, s, 0.13331491f);
        p = fmaf(p, s, -0.33333284f);
        result = fmaf(a * s, p, a);
    } else {
        result = 1.0f - 2.0f / (exp_(a + a) + 1.0f);
    }
    return copysignf(result, x);
}

static float sigmoid_(float x) {
    float e = exp_(-fabsf(x));
    return (x >= 0.0f ? 1.0f : e) / (1.0f + e);
}

static float softplus_(float x) { return (x > 0.0f ? x : 0.0f) + ln_(1.0f + exp_(-fabsf(x))); }

/* ---- 4. model ----------------------------------------------------------------------------------------------- */

typedef enum { SQUARED_ERROR, LOGISTIC, SOFTMAX, POISSON } Head;
typedef enum { DENSE, RELU, TANH, SIGMOID, DROP, RESIDUAL } Kind;

/* A layer of the list. Value k goes into it, value k + 1 comes out. */
typedef struct {
    Kind kind;
    int dense;           /* the number of a dense layer among these */
    uint64_t first_unit; /* of dropout, among the units of all such layers */
    float rate;          /* of dropout */
    int source;          /* the value that a residual layer adds */
} Layer;

typedef struct {
    int count, layers; /* of the list, and dense ones */
    Layer list[MAX_LAYERS];
    uint64_t width[MAX_LAYERS + 1]; /* of the values */
    uint64_t inputs[MAX_LAYERS], outputs[MAX_LAYERS], weight[MAX_LAYERS], bias[MAX_LAYERS], parameters; /* dense ones */
    uint64_t units; /* that may be dropped */
    uint64_t seed;
    Head head;
} Model;

static void add_layer(Model *m, Kind kind, const char *argument) {
    if (m->count >= MAX_LAYERS) fail("too many layers", argument);
    int k = m->count++;
    m->list[k] = (Layer){.kind = kind};
    m->width[k + 1] = m->width[k];
    if (kind == DENSE) {
        int l = m->list[k].dense = m->layers++;
        m->inputs[l] = m->width[k];
        m->outputs[l] = m->width[k + 1] = strtoull(argument, NULL, 10);
        m->weight[l] = m->parameters;
        m->bias[l] = m->weight[l] + m->inputs[l] * m->outputs[l];
        m->parameters = m->bias[l] + m->outputs[l];
    } else if (kind == DROP) {
        m->list[k].rate = (float)strtod(argument, NULL);
        m->list[k].first_unit = m->units;
        m->units += m->width[k];
    } else if (kind == RESIDUAL) {
        m->list[k].source = k - atoi(argument);
    }
}

/* Splits "a:1,b" into names and what follows the colon; gives where the next one starts. */
static const char *next_name(const char *list, char name[16], const char **argument) {
    size_t length = strcspn(list, ",:");
    if (length >= 16) fail("a long name", list);
    memcpy(name, list, length), name[length] = 0;
    *argument = list[length] == ':' ? list + length + 1 : "";
    list += strcspn(list, ",");
    return *list ? list + 1 : list;
}

static Model model_of(const Samples *samples) {
    Model m = {.head = is("head", "", "squared-error") ? SQUARED_ERROR
                       : is("head", "", "logistic")    ? LOGISTIC
                       : is("head", "", "softmax")     ? SOFTMAX
                                                       : POISSON,
               .seed = whole("seed", "1")};
    Kind activation = is("activation", "relu", "relu") ? RELU : is("activation", "relu", "tanh") ? TANH : SIGMOID;
    static const char *const names[] = {"dense", "relu", "tanh", "sigmoid", "dropout", "residual"};
    char name[16];
    const char *argument;
    m.width[0] = samples->width;
    for (const char *layers = setting("layers", ""); *layers;) {
        layers = next_name(layers, name, &argument);
        int kind = DENSE;
        while (kind <= RESIDUAL && strcmp(name, names[kind])) kind++;
        if (kind > RESIDUAL) fail("no such layer", name);
        add_layer(&m, (Kind)kind, argument);
    }
    for (const char *hidden = setting("hidden", ""); *hidden;) {
        hidden = next_name(hidden, name, &argument);
        add_layer(&m, DENSE, name);
        add_layer(&m, activation, "");
    }
    snprintf(name, sizeof name, "%d", m.head == SOFTMAX ? (int)samples->classes : 1);
    add_layer(&m, DENSE, name);
    return m;
}

static float *initial_parameters(const Model *m, uint64_t seed) {
    float *w = room(m->parameters, sizeof *w);
    for (int k = 0; k < m->count && m->layers > 1; k++) {
        if (m->list[k].kind != DENSE) continue;
        int l = m->list[k].dense;
        bool relu = k + 1 < m->count && m->list[k + 1].kind == RELU;
        double fan = (double)(relu ? m->inputs[l] : m->inputs[l] + m->outputs[l]);
        float limit = (float)sqrt(6.0 / fan);
        for (uint64_t i = m->weight[l]; i < m->bias[l]; i++) {
            uint32_t word[4];
            random_words(seed, INIT, 0, i, word);
            w[i] = ((float)(word[0] >> 8) * 0x1p-23f - 1.0f) * limit;
        }
    }
    return w;
}

static float activate(Kind f, float z) {
    return f == RELU ? (z > 0.0f ? z : 0.0f) : f == TANH ? tanh_(z) : sigmoid_(z);
}

static float activate_backward(Kind f, float d, float a) {
    return f == RELU ? (a > 0.0f ? d : 0.0f) : f == TANH ? d * fmaf(-a, a, 1.0f) : d * (a * (1.0f - a));
}

/* A sample of a step: its position in the batch. In an evaluation nothing is dropped. */
typedef struct {
    bool is_training;
    uint64_t step, position;
} Place;

static float drop(const Model *m, const Layer *layer, Place place, uint64_t unit, float x) {
    if (!place.is_training) return x;
    uint32_t word[4];
    uint64_t number = place.position * m->units + layer->first_unit + unit;
    random_words(m->seed, DROPOUT, (uint32_t)place.step, number, word);
    bool is_kept = (float)(word[0] >> 8) * 0x1p-24f >= layer->rate;
    return is_kept ? x * (1.0f / (1.0f - layer->rate)) : 0.0f;
}

/* The values for one sample: value[0] is x, the last one what goes to the head. */
static void forward(const Model *m, const float *w, const float *x, Place place, float *value[]) {
    memcpy(value[0], x, m->width[0] * sizeof(float));
    for (int k = 0; k < m->count; k++) {
        const Layer *layer = &m->list[k];
        int l = layer->dense;
        for (uint64_t o = 0; o < m->width[k + 1]; o++) {
            float acc = 0.0f;
            switch (layer->kind) {
            case DENSE:
                for (uint64_t i = 0; i < m->inputs[l]; i++)
                    acc = fmaf(value[k][i], w[m->weight[l] + o * m->inputs[l] + i], acc);
                value[k + 1][o] = acc + w[m->bias[l] + o];
                break;
            case DROP: value[k + 1][o] = drop(m, layer, place, o, value[k][o]); break;
            case RESIDUAL: value[k + 1][o] = value[k][o] + value[layer->source][o]; break;
            default: value[k + 1][o] = activate(layer->kind, value[k][o]);
            }
        }
    }
}

/* The derivative by value k, of which those after it are known. */
static void backward(const Model *m, const float *w, int k, Place place, float *value[], float *delta[]) {
    const Layer *layer = &m->list[k];
    int l = layer->dense;
    for (uint64_t i = 0; i < m->width[k]; i++) {
        float d = layer->kind == DENSE ? 0.0f : delta[k + 1][i];
        if (layer->kind == DENSE)
            for (uint64_t o = 0; o < m->outputs[l]; o++)
                d = fmaf(delta[k + 1][o], w[m->weight[l] + o * m->inputs[l] + i], d);
        else if (layer->kind == DROP)
            d = drop(m, layer, place, i, d);
        else if (layer->kind != RESIDUAL)
            d = activate_backward(layer->kind, d, value[k + 1][i]);
        for (int r = k; r < m->count; r++)
            if (m->list[r].kind == RESIDUAL && m->list[r].source == k) d = d + delta[r + 1][i];
        delta[k][i] = d;
    }
}

static float head_loss(const Model *m, const float *z, float y, float *delta) {
    switch (m->head) {
    case SQUARED_ERROR: {
        float r = z[0] - y;
        delta[0] = r;
        return 0.5f * (r * r);
    }
    case LOGISTIC: delta[0] = sigmoid_(z[0]) - y; return fmaf(-y, z[0], softplus_(z[0]));
    case POISSON: {
        float e = exp_(z[0]);
        delta[0] = e - y;
        return fmaf(-y, z[0], e);
    }
    default: break;
    }
    uint64_t classes = m->width[m->count], label = (uint64_t)y;
    float most = z[0], sum = 0.0f;
    for (uint64_t j = 1; j < classes; j++)
        if (z[j] > most) most = z[j];
    for (uint64_t j = 0; j < classes; j++) sum = sum + (delta[j] = exp_(z[j] - most));
    for (uint64_t j = 0; j < classes; j++) delta[j] = delta[j] / sum;
    delta[label] = delta[label] - 1.0f;
    return ln_(sum) + (most - z[label]);
}

static bool is_right(const Model *m, const float *z, float y) {
    uint64_t best = 0;
    if (m->head == LOGISTIC) return (z[0] > 0.0f ? 1.0f : 0.0f) == y;
    for (uint64_t j = 1; j < m->width[m->count]; j++)
        if (z[j] > z[best]) best = j;
    return (float)best == y;
}

/* ---- 6. the sum over samples -------------------------------------------------------------------------------- */

typedef struct {
    float *gradient; /* [parameters], or none where only losses are summed */
    double loss;
    uint64_t right;
} Node;

/* The sum over the samples index[0..count], one leaf, of which the first is at `place`. */
static Node leaf_of(const Model *m, const float *w, const Samples *s, const uint64_t *index, uint64_t count,
                    Place place) {
    bool with_gradient = place.is_training;
    Node node = {.gradient = with_gradient ? room(m->parameters, sizeof(float)) : NULL};
    float *value[MAX_LAYERS + 1], *delta[MAX_LAYERS + 1];
    for (int k = 0; k <= m->count; k++) {
        value[k] = room(m->width[k], sizeof(float));
        delta[k] = room(m->width[k], sizeof(float));
    }
    for (uint64_t p = 0; p < count; p++, place.position++) {
        forward(m, w, s->x + index[p] * s->width, place, value);
        float *z = value[m->count], *top = delta[m->count], y = s->y[index[p]];
        node.loss += (double)head_loss(m, z, y, top);
        if (m->head == LOGISTIC || m->head == SOFTMAX) node.right += is_right(m, z, y);
        /* Nothing before the first dense layer has parameters. */
        for (int k = m->count - 1, left = m->layers; left > 0 && with_gradient; k--) {
            if (m->list[k].kind == DENSE) left--;
            if (left > 0) backward(m, w, k, place, value, delta);
            if (m->list[k].kind != DENSE) continue;
            int l = m->list[k].dense;
            for (uint64_t o = 0; o < m->outputs[l]; o++) {
                float d = delta[k + 1][o], *row = node.gradient + m->weight[l] + o * m->inputs[l];
                for (uint64_t i = 0; i < m->inputs[l]; i++) row[i] = fmaf(d, value[k][i], row[i]);
                node.gradient[m->bias[l] + o] = node.gradient[m->bias[l] + o] + d;
            }
        }
    }
    for (int k = 0; k <= m->count; k++) {
        free(value[k]);
        free(delta[k]);
    }
    return node;
}

/* The weights that a step's sums are computed at: to bfloat16 and back. */
static float rounded(float w) {
    uint32_t b = bits_of(w);
    return isnan(w) ? w : number_of((b + 0x7fffu + (b >> 16 & 1u)) & 0xffff0000u);
}

/* The root of the tree over the leaves of samples index[0..count], those of a step or of an evaluation. */
static Node sum_of(const Model *m, const float *w, const Samples *s, const uint64_t *index, uint64_t count,
                   uint64_t leaf, Place place) {
    bool with_gradient = place.is_training;
    uint64_t nodes = (count + leaf - 1) / leaf;
    Node *level = room(nodes, sizeof *level);
    for (uint64_t i = 0; i < nodes; i++) {
        uint64_t start = i * leaf, held = count - start < leaf ? count - start : leaf;
        place.position = start;
        level[i] = leaf_of(m, w, s, index + start, held, place);
    }
    for (; nodes > 1; nodes = (nodes + 1) / 2)
        for (uint64_t i = 0; i < (nodes + 1) / 2; i++) {
            Node sum = level[2 * i];
            if (2 * i + 1 < nodes) {
                Node right = level[2 * i + 1];
                for (uint64_t j = 0; j < m->parameters && with_gradient; j++)
                    sum.gradient[j] = sum.gradient[j] + right.gradient[j];
                free(right.gradient);
                sum.loss = sum.loss + right.loss;
                sum.right += right.right;
            }
            level[i] = sum;
        }
    Node root = level[0];
    free(level);
    return root;
}

/* ---- 8. functions in binary64, which section 7 needs, too ---------------------------------------------------- */

static const double PI = 3.141592653589793, LN2 = 0.6931471805599453, SQRT2 = 1.4142135623730951;

static double cos_pi(double x) {
    if (x > 0.5) return -cos_pi(1.0 - x);
    double q = (PI * x) * (PI * x), c = 1.0;
    for (int k = 13; k >= 1; k--) c = 1.0 - q / (double)((2 * k - 1) * (2 * k)) * c;
    return c;
}

static double ln64(double x) {
    int k;
    double m = 2.0 * frexp(x, &k);
    k--;
    if (m > SQRT2) {
        m = m / 2.0;
        k++;
    }
    double s = (m - 1.0) / (m + 1.0), q = s * s, a = 0.0;
    for (int i = 12; i >= 0; i--) a = a * q + 1.0 / (double)(2 * i + 1);
    return (double)k * LN2 + (2.0 * s) * a;
}

static double exp64(double x) {
    if (x < -700.0) return 0.0;
    if (x > 700.0) return INFINITY;
    double n = round(x / LN2), r = x - n * LN2, a = 1.0;
    for (int k = 20; k >= 1; k--) a = 1.0 + (r / (double)k) * a;
    return ldexp(a, (int)n);
}

static double pow_(double b, double e) {
    return e == 0.0 ? 1.0 : e == 1.0 ? b : b == 0.0 ? 0.0 : exp64(e * ln64(b));
}

/* ---- 7. the update ------------------------------------------------------------------------------------------ */

#define MAX_TENSORS (2 * MAX_LAYERS)

/* The tensors, in the order of the parameters: the weight and the bias of each layer. */
static uint64_t tensor_start(const Model *m, int tensor) { return (tensor % 2 ? m->bias : m->weight)[tensor / 2]; }
static uint64_t tensor_end(const Model *m, int tensor) {
    return tensor + 1 < 2 * m->layers ? tensor_start(m, tensor + 1) : m->parameters;
}

static struct {
    const char *kind;
    float clip, decay, l1, momentum, beta1, beta2, epsilon, trust;
    double clip_norm, noise, noise_decay;
    bool nesterov, decay_biases;
} o;

static void read_optimizer(void) {
    o.kind = setting("kind", "sgd");
    o.clip = (float)real("clip", "0"), o.decay = (float)real("weight_decay", "0"), o.l1 = (float)real("l1", "0");
    o.momentum = (float)real("momentum", "0"), o.beta1 = (float)real("beta1", "0.9");
    o.beta2 = (float)real("beta2", "0.999"), o.epsilon = (float)real("epsilon", "1e-8");
    o.trust = (float)real("trust", "0.001"), o.clip_norm = (double)(float)real("clip_norm", "0");
    o.noise = real("noise", "0"), o.noise_decay = real("noise_decay", "0.55");
    o.nesterov = yes("nesterov"), o.decay_biases = strcmp(setting("decay_biases", "true"), "false") != 0;
}

static bool kind_is(const char *kind) { return !strcmp(o.kind, kind); }

static float normal(uint64_t seed, uint64_t step, uint64_t i) {
    uint32_t word[4];
    random_words(seed, NOISE, (uint32_t)step, i, word);
    float x = (float)(word[0] >> 8) * 0x1p-24f, y = (float)(word[1] >> 8) * 0x1p-24f;
    float radius = sqrtf(-2.0f * ln_(1.0f - x));
    double turns = 2.0 * (double)y;
    return (float)((double)radius * cos_pi(turns > 1.0 ? 2.0 - turns : turns));
}

/* The states of the parameters, and how many steps they have seen. */
typedef struct {
    float *first, *second;
    uint64_t count;
} State;

typedef struct {
    uint64_t seed, step, samples;
    float rate, scale, trust[MAX_TENSORS];
} Stride;

static float decay_of(bool is_weight) { return is_weight || o.decay_biases ? o.decay : 0.0f; }
static float l1_of(bool is_weight) { return is_weight || o.decay_biases ? o.l1 : 0.0f; }

/* g of parameter i, after all that is done to it. */
static float gradient_of(const Stride *s, uint64_t i, bool is_weight, float w, float sum) {
    float g = sum / (float)s->samples * s->scale;
    if (o.noise > 0.0) {
        float deviation = (float)sqrt(o.noise / pow_(1.0 + (double)s->step, o.noise_decay));
        g = fmaf(deviation, normal(s->seed, s->step, i), g);
    }
    if (o.clip != 0.0f && g > o.clip) g = o.clip;
    if (o.clip != 0.0f && g < -o.clip) g = -o.clip;
    float decay = decay_of(is_weight), l1 = l1_of(is_weight);
    if (decay != 0.0f && !kind_is("adamw") && !kind_is("lamb") && !kind_is("ftrl")) g = fmaf(decay, w, g);
    if (l1 != 0.0f && !kind_is("ftrl")) g = fmaf(l1, w > 0.0f ? 1.0f : w < 0.0f ? -1.0f : 0.0f, g);
    return g;
}

static float moments(float g, float *m, float *s, uint64_t count) {
    float first = (float)(1.0 - pow_((double)o.beta1, (double)count));
    float second = (float)sqrt(1.0 - pow_((double)o.beta2, (double)count));
    *m = fmaf(o.beta1, *m, (1.0f - o.beta1) * g);
    *s = fmaf(o.beta2, *s, (1.0f - o.beta2) * (g * g));
    return *m / first / (sqrtf(*s) / second + o.epsilon);
}

/* Parameter w with gradient g, its two states, and its rate. */
static void update_one(float *w, float g, float *a, float *b, float r, bool is_weight, uint64_t count) {
    float decay = decay_of(is_weight), l1 = l1_of(is_weight), d = g;
    if (kind_is("sgd")) {
        if (o.momentum != 0.0f) {
            *a = fmaf(o.momentum, *a, g);
            d = o.nesterov ? fmaf(o.momentum, *a, g) : *a;
        }
        *w = fmaf(-r, d, *w);
    } else if (kind_is("lars")) {
        if (o.momentum == 0.0f) *w = fmaf(-r, g, *w);
        else {
            *a = fmaf(o.momentum, *a, r * g);
            *w = *w - *a;
        }
    } else if (kind_is("adagrad")) {
        *a = fmaf(g, g, *a);
        *w = fmaf(-r, g / (sqrtf(*a) + o.epsilon), *w);
    } else if (kind_is("rmsprop")) {
        *a = fmaf(o.beta2, *a, (1.0f - o.beta2) * (g * g));
        d = g / (sqrtf(*a) + o.epsilon);
        if (o.momentum != 0.0f) d = *b = fmaf(o.momentum, *b, d);
        *w = fmaf(-r, d, *w);
    } else if (kind_is("adam") || kind_is("adamw")) {
        d = moments(g, a, b, count);
        *w = fmaf(-r, d, *w * (kind_is("adamw") ? 1.0f - r * decay : 1.0f));
    } else if (kind_is("lamb")) {
        d = fmaf(decay, *w, moments(g, a, b, count));
        *w = fmaf(-r, d, *w);
    } else if (kind_is("ftrl")) {
        float before = sqrtf(*b);
        *b = fmaf(g, g, *b);
        float root = sqrtf(*b), sigma = (root - before) / r;
        *a = *a + fmaf(-sigma, *w, g);
        float over = fmaf(l1, *a < 0.0f ? 1.0f : -1.0f, *a);
        *w = fabsf(*a) <= l1 ? 0.0f : -over / ((o.epsilon + root) / r + decay);
    } else fail("no such optimizer", o.kind);
}

/* The product of the factors whose names match a tensor, in ascending order of the names. */
static float rate_factor(int tensor) {
    bool is_weight = tensor % 2 == 0;
    char key[64];
    /* The names that could match, in ascending order. */
    float product = is_weight ? 1.0f : (float)real("rates.biases", "1");
    snprintf(key, sizeof key, "rates.layers.%d", tensor / 2);
    product = product * (float)real(key, "1");
    snprintf(key, sizeof key, "rates.layers.%d.%s", tensor / 2, is_weight ? "weight" : "bias");
    product = product * (float)real(key, "1");
    return is_weight ? product * (float)real("rates.weights", "1") : product;
}

static void update(const Model *m, float *w, State *state, const float *sum, const Stride *s) {
    state->count++;
    for (int t = 0; t < 2 * m->layers; t++) {
        bool is_weight = t % 2 == 0;
        float r = s->rate * rate_factor(t) * s->trust[t];
        for (uint64_t i = tensor_start(m, t); i < tensor_end(m, t); i++)
            update_one(&w[i], gradient_of(s, i, is_weight, w[i], sum[i]), &state->first[i], &state->second[i], r,
                       is_weight, state->count);
    }
}

typedef struct {
    double gradient, weights, step;
} Squares;

static double piece(const float *x, uint64_t count) {
    double lane[16] = {0};
    for (uint64_t i = 0; i < count; i++) lane[i % 16] += (double)x[i] * (double)x[i];
    for (int half = 8; half; half /= 2)
        for (int j = 0; j < half; j++) lane[j] += lane[j + half];
    return lane[0];
}

static void squares_of(const Model *m, const float *w, const State *state, const float *sum, const Stride *s,
                       Squares squares[]) {
    for (int t = 0; t < 2 * m->layers; t++) {
        bool is_weight = t % 2 == 0;
        squares[t] = (Squares){0, 0, 0};
        for (uint64_t i = tensor_start(m, t), end = tensor_end(m, t); i < end;) {
            float mean[1024], step[1024];
            uint64_t next = (i / 1024 + 1) * 1024, count = (next < end ? next : end) - i;
            for (uint64_t j = 0; j < count; j++) {
                mean[j] = sum[i + j] / (float)s->samples;
                step[j] = gradient_of(s, i + j, is_weight, w[i + j], sum[i + j]);
                float first = state->first[i + j], second = state->second[i + j];
                if (kind_is("lamb"))
                    step[j] = fmaf(decay_of(is_weight), w[i + j], moments(step[j], &first, &second, state->count + 1));
            }
            squares[t].gradient += piece(mean, count);
            squares[t].weights += piece(w + i, count);
            squares[t].step += piece(step, count);
            i += count;
        }
    }
}

/* Scale and trust, by the norms. */
static void fit(const Model *m, const Squares squares[], Stride *s) {
    double whole_gradient = 0.0;
    for (int t = 0; t < 2 * m->layers; t++) whole_gradient += squares[t].gradient;
    if (o.clip_norm > 0.0) {
        double scale = o.clip_norm / (sqrt(whole_gradient) + 1e-6);
        s->scale = (float)(scale < 1.0 ? scale : 1.0);
    }
    for (int t = 0; t < 2 * m->layers; t += 2) {
        double weight = sqrt(squares[t].weights), gradient = sqrt(squares[t].gradient), trust = 1.0;
        if (kind_is("lars"))
            trust = (double)o.trust * weight / (gradient * (double)s->scale + (double)o.decay * weight);
        if (kind_is("lamb")) trust = weight / sqrt(squares[t].step);
        s->trust[t] = weight > 0.0 && isfinite(trust) ? (float)trust : 1.0f;
    }
}

/* ---- 8. learning rates -------------------------------------------------------------------------------------- */

static double cosine(double from, double to, double p) {
    if (p < 0.0) p = 0.0;
    if (p > 1.0) p = 1.0;
    return to + (from - to) * (0.5 * (1.0 + cos_pi(p)));
}

static double rate_at(uint64_t t, uint64_t steps) {
    double initial = real("initial", "0.1"), end = real("end", "0"), factor = real("factor", "0.1");
    uint64_t warmup = whole("warmup", "0"), every = whole("every", "1");
    if (t < warmup) return initial * (double)(t + 1) / (double)warmup;
    double s = (double)(t - warmup), periods = s / (double)every;
    double p = s / (double)(steps > warmup + 1 ? steps - warmup : 1);
    const char *schedule = setting("schedule", "constant");
    double rate = initial;
    if (!strcmp(schedule, "step")) rate = initial * pow_(factor, floor(periods));
    else if (!strcmp(schedule, "exponential")) rate = initial * pow_(factor, periods);
    else if (!strcmp(schedule, "inverse-time")) rate = initial / (1.0 + factor * periods);
    else if (!strcmp(schedule, "polynomial"))
        rate = end + (initial - end) * pow_(1.0 - p > 0.0 ? 1.0 - p : 0.0, real("power", "1"));
    else if (!strcmp(schedule, "cosine")) rate = cosine(initial, end, p);
    else if (!strcmp(schedule, "cosine-restarts")) {
        uint64_t r = t - warmup, l = every, stretch = whole("stretch", "1");
        while (r >= l) {
            r -= l;
            l *= stretch;
        }
        rate = cosine(initial, end, (double)r / (double)l);
    }
    else if (!strcmp(schedule, "one-cycle"))
        rate = p < 0.3 ? cosine(initial * (1.0 / 25.0), initial, p / 0.3)
                       : cosine(initial, end, (p - 0.3) / (1.0 - 0.3));
    else if (strcmp(schedule, "constant") && strcmp(schedule, "plateau") && strcmp(schedule, "armijo"))
        fail("no such schedule", schedule);
    return rate;
}

/* ---- SHA-256 (FIPS 180-4) ----------------------------------------------------------------------------------- */

static uint32_t turn(uint32_t x, int by) { return x >> by | x << (32 - by); }

static const uint32_t SHA_START[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

static const uint32_t SHA_ROUND[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static void sha256(const unsigned char *data, uint64_t length, uint32_t state[8]) {
    memcpy(state, SHA_START, sizeof SHA_START);
    uint64_t blocks = (length + 9 + 63) / 64;
    for (uint64_t block = 0; block < blocks; block++) {
        uint32_t word[64];
        for (int i = 0; i < 16; i++) {
            word[i] = 0;
            for (int b = 0; b < 4; b++) {
                uint64_t at = block * 64 + (uint64_t)(4 * i + b);
                uint32_t byte = at < length ? data[at] : at == length ? 0x80 : 0;
                if (at >= blocks * 64 - 8) byte = (uint32_t)(length * 8 >> (8 * (blocks * 64 - 1 - at))) & 255;
                word[i] = word[i] << 8 | byte;
            }
        }
        for (int i = 16; i < 64; i++) {
            uint32_t a = word[i - 15], b = word[i - 2];
            word[i] = word[i - 16] + (turn(a, 7) ^ turn(a, 18) ^ a >> 3) + word[i - 7] +
                      (turn(b, 17) ^ turn(b, 19) ^ b >> 10);
        }
        uint32_t h[8];
        memcpy(h, state, sizeof h);
        for (int i = 0; i < 64; i++) {
            uint32_t one = h[7] + (turn(h[4], 6) ^ turn(h[4], 11) ^ turn(h[4], 25)) +
                           ((h[4] & h[5]) ^ (~h[4] & h[6])) + SHA_ROUND[i] + word[i];
            uint32_t two = (turn(h[0], 2) ^ turn(h[0], 13) ^ turn(h[0], 22)) +
                           ((h[0] & h[1]) ^ (h[0] & h[2]) ^ (h[1] & h[2]));
            memmove(h + 1, h, 7 * sizeof *h);
            h[4] += one;
            h[0] = one + two;
        }
        for (int i = 0; i < 8; i++) state[i] += h[i];
    }
}

static void print_hash(const float *w, uint64_t parameters) {
    unsigned char *bytes = room(parameters, 4);
    for (uint64_t i = 0; i < parameters; i++)
        for (int b = 0; b < 4; b++) bytes[4 * i + (uint64_t)b] = (unsigned char)(bits_of(w[i]) >> (8 * b));
    uint32_t state[8];
    sha256(bytes, 4 * parameters, state);
    for (int i = 0; i < 8; i++) printf("%08x", (unsigned)state[i]);
    printf("\n");
    free(bytes);
}

/* ---- 9. what is decided before a step ----------------------------------------------------------------------- */

/* Weights with their states, put aside. */
typedef struct {
    float *w;
    State state;
} Kept;

static void keep(Kept *kept, const float *w, const State *state, uint64_t parameters) {
    if (!kept->w)
        *kept = (Kept){room(parameters, sizeof(float)), {room(parameters, sizeof(float)), room(parameters, sizeof(float)), 0}};
    memcpy(kept->w, w, parameters * sizeof *w);
    memcpy(kept->state.first, state->first, parameters * sizeof *w);
    memcpy(kept->state.second, state->second, parameters * sizeof *w);
    kept->state.count = state->count;
}

static void take(const Kept *kept, float *w, State *state, uint64_t parameters) {
    memcpy(w, kept->w, parameters * sizeof *w);
    memcpy(state->first, kept->state.first, parameters * sizeof *w);
    memcpy(state->second, kept->state.second, parameters * sizeof *w);
    state->count = kept->state.count;
}

/* 8. Plateau. */
static struct {
    bool begun, has_best;
    double rate, best;
    uint64_t bad, cooldown;
} plateau;

static void see_plateau(double loss) {
    double threshold = real("threshold", "0.0001");
    if (!plateau.begun) plateau.begun = true, plateau.rate = real("initial", "0.1");
    double margin = yes("absolute") ? threshold : threshold * fabs(plateau.best);
    if (isfinite(loss) && (!plateau.has_best || loss < plateau.best - margin))
        plateau.has_best = true, plateau.best = loss, plateau.bad = 0;
    else plateau.bad++;
    if (plateau.cooldown > 0) plateau.cooldown--, plateau.bad = 0;
    if (plateau.bad > whole("patience", "10")) {
        double lower = plateau.rate * real("factor", "0.1"), end = real("end", "0");
        if (lower < end) lower = end;
        plateau.cooldown = whole("cooldown", "0"), plateau.bad = 0;
        if (plateau.rate - lower > 1e-8) plateau.rate = lower;
    }
}

/* Early stopping. */
static struct {
    bool has_best;
    double best;
    uint64_t waited;
    Kept kept;
} early;

static bool is_better(double loss) {
    return isfinite(loss) && (!early.has_best || loss < early.best - real("min_delta", "0"));
}

/* The guard. */
static struct {
    bool has_first, has_best;
    double sum, weight, first, best, factor;
    uint64_t recoveries, kept_step;
    double kept_sum, kept_weight;
    Kept kept;
} guard = {.factor = 1.0};

typedef enum { STEP, RECOVER, DIVERGED } Decision;

/* Whether the loss has exploded; if not, it is added to the mean. */
static bool has_exploded(double loss, bool finite) {
    if (!finite) return true;
    if (!guard.has_first) guard.has_first = true, guard.first = loss;
    double sum = (1.0 - 0.9) * loss + 0.9 * guard.sum, weight = (1.0 - 0.9) + 0.9 * guard.weight;
    double mean = sum / weight;
    if (guard.has_best) {
        double magnitude = fabs(guard.best), floor = 0.1 * fabs(guard.first);
        double limit = guard.best + (real("rise", "3") - 1.0) * (magnitude > floor ? magnitude : floor);
        double spike = guard.best + 10.0 * (limit - guard.best);
        if (mean > limit || loss > spike) return true;
    }
    guard.sum = sum, guard.weight = weight;
    if (!guard.has_best || mean < guard.best) guard.has_best = true, guard.best = mean;
    return false;
}

static Decision see_guard(double loss, bool finite, uint64_t t, const float *w, const State *state, uint64_t parameters) {
    bool recovers = is("guard", "off", "recover");
    if (is("guard", "off", "off")) return finite ? STEP : DIVERGED;
    if (!has_exploded(loss, finite)) {
        if (recovers && (!guard.kept.w || t - guard.kept_step >= whole("guard_every", "100"))) {
            keep(&guard.kept, w, state, parameters);
            guard.kept_step = t, guard.kept_sum = guard.sum, guard.kept_weight = guard.weight;
        }
        return STEP;
    }
    if (recovers && guard.kept.w && guard.recoveries < whole("retries", "10")) {
        guard.recoveries++;
        guard.factor *= real("guard_factor", "0.5");
        guard.sum = guard.kept_sum, guard.weight = guard.kept_weight;
        guard.best = guard.sum / guard.weight;
        return RECOVER;
    }
    return finite ? STEP : DIVERGED;
}

/* The descent that checks itself. */
static struct {
    float *w, *direction;
    double loss, square, rate;
} point;

/* Gives the next weights in w, and whether the descent has arrived; a first point that is not finite is no point. */
static bool descend(const Model *m, float *w, const float *sum, const Stride *s, double loss, bool finite,
                    const Squares squares[], bool is_last_step) {
    double square = 0.0, penalty = 0.0, tolerance = real("tolerance", "1e-9");
    for (int t = 0; t < 2 * m->layers; t++) {
        penalty += 0.5 * (double)decay_of(t % 2 == 0) * squares[t].weights;
        square += squares[t].step;
    }
    loss += penalty;
    bool is_first = !point.w, is_over = false;
    double predicted = point.rate * point.square, noise = 0x1p-28 * fabs(point.loss);
    if (is_first || (finite && loss <= point.loss - real("sufficient", "1e-4") * predicted + noise)) {
        if (!is_first) {
            double actual = point.loss - loss;
            if (sqrt(square) <= real("gradient_tolerance", "1e-6") || predicted <= tolerance ||
                (actual <= tolerance && tolerance >= noise))
                is_over = true;
        } else point.w = room(m->parameters, sizeof *w), point.direction = room(m->parameters, sizeof *w);
        point.loss = loss, point.square = square;
        point.rate = is_first ? real("initial", "0.1") : point.rate * real("grow", "2");
        memcpy(point.w, w, m->parameters * sizeof *w);
        for (int t = 0; t < 2 * m->layers; t++)
            for (uint64_t i = tensor_start(m, t); i < tensor_end(m, t); i++)
                point.direction[i] = gradient_of(s, i, t % 2 == 0, w[i], sum[i]);
    } else {
        point.rate *= real("shrink", "0.5");
        if (point.rate * point.square <= tolerance) is_over = true;
    }
    for (uint64_t i = 0; i < m->parameters; i++)
        w[i] = is_over || is_last_step ? point.w[i] : fmaf(-(float)point.rate, point.direction[i], point.w[i]);
    return is_over;
}

/* ---- the run ------------------------------------------------------------------------------------------------ */

static bool is_finite(const Node *sum, uint64_t parameters) {
    bool finite = isfinite(sum->loss);
    for (uint64_t i = 0; i < parameters; i++) finite &= isfinite(sum->gradient[i]) != 0;
    return finite;
}

static Node evaluate(const Model *m, const float *w, const Samples *s) {
    uint64_t *index = room(s->n, sizeof *index);
    for (uint64_t i = 0; i < s->n; i++) index[i] = i;
    Node sum = sum_of(m, w, s, index, s->n, 256, (Place){.is_training = false});
    free(index);
    return sum;
}

int main(int count, char **values) {
    argument_count = count;
    arguments = values;
    read_optimizer();
    uint64_t seed = whole("seed", "1"), leaf = whole("leaf", "8");
    bool classes = is("head", "", "logistic") || is("head", "", "softmax");
    Samples all = *setting("images", "")   ? read_idx(setting("images", ""), setting("labels", ""))
                  : *setting("libsvm", "") ? read_libsvm(setting("libsvm", ""), classes)
                                           : read_csv(setting("csv", ""), setting("label", ""), classes);
    Samples training, validation;
    split(&all, real("validation", "0"), seed, &training, &validation);
    if (is("missing", "refuse", "mean")) fill_missing(&training, &validation);
    if (yes("standardize")) standardize(&training, &validation);

    Model m = model_of(&all);
    uint64_t n = m.parameters, batch = is("batch", "32", "full") ? training.n : whole("batch", "32");
    float *w = initial_parameters(&m, seed);
    State state = {room(n, sizeof *w), room(n, sizeof *w), 0};
    uint64_t per_epoch = (training.n + batch - 1) / batch, steps = whole("epochs", "1") * per_epoch;
    uint64_t limit = whole("steps", "0"), patience = whole("early_stopping", "0");
    if (limit && limit < steps) steps = limit;
    uint64_t *index = room(batch, sizeof *index);
    bool halves = is("weights", "f32", "bf16"), is_over = false;
    float *at = halves ? room(n, sizeof *at) : w;
    double loss = 0;
    for (uint64_t t = 0; t < steps && !is_over; t++) {
        Order order = order_of(seed, ORDER, (uint32_t)(t / per_epoch), training.n);
        uint64_t start = t % per_epoch * batch, held = training.n - start < batch ? training.n - start : batch;
        for (uint64_t p = 0; p < held; p++) index[p] = sample_at(&order, start + p);
        for (uint64_t i = 0; i < n && halves; i++) at[i] = rounded(w[i]);
        Node sum = sum_of(&m, at, &training, index, held, leaf, (Place){.is_training = true, .step = t});
        bool finite = is_finite(&sum, n);
        loss = sum.loss;
        if (t > 0 && t % per_epoch == 0 && validation.n) {
            double seen = evaluate(&m, at, &validation).loss / (double)validation.n;
            if (is("schedule", "constant", "plateau")) see_plateau(seen);
            if (patience && is_better(seen)) {
                early.has_best = true, early.best = seen, early.waited = 0;
                keep(&early.kept, w, &state, n);
            } else if (patience && early.has_best && ++early.waited >= patience) {
                is_over = true;
                memcpy(w, early.kept.w, n * sizeof *w);
                break;
            }
        }
        double rate = plateau.begun && t >= whole("warmup", "0") ? plateau.rate : rate_at(t, steps);
        Stride stride = {seed, t, held, 0.0f, 1.0f, {0}};
        for (int i = 0; i < MAX_TENSORS; i++) stride.trust[i] = 1.0f;
        Squares squares[MAX_TENSORS];
        squares_of(&m, w, &state, sum.gradient, &stride, squares);
        fit(&m, squares, &stride);
        if (is("schedule", "constant", "armijo")) {
            if (!finite && !point.w) {
                printf("diverged at step %llu\n", (unsigned long long)t);
                return 0;
            }
            is_over = descend(&m, w, sum.gradient, &stride, loss / (double)held, finite, squares, t + 1 == steps);
        } else {
            Decision decision = see_guard(loss / (double)held, finite, t, w, &state, n);
            if (decision == DIVERGED) {
                printf("diverged at step %llu\n", (unsigned long long)t);
                return 0;
            }
            stride.rate = (float)(rate * guard.factor);
            if (decision == RECOVER) take(&guard.kept, w, &state, n);
            else update(&m, w, &state, sum.gradient, &stride);
        }
        free(sum.gradient);
    }
    if (patience && !is_over && early.has_best) {
        for (uint64_t i = 0; i < n && halves; i++) at[i] = rounded(w[i]);
        double seen = evaluate(&m, at, &validation).loss / (double)validation.n;
        if (!is_better(seen)) memcpy(w, early.kept.w, n * sizeof *w);
    }
    printf("loss %.17g\n", loss);
    if (validation.n) {
        Node sum = evaluate(&m, w, &validation);
        printf("validation %.17g %llu of %llu\n", sum.loss, (unsigned long long)sum.right,
               (unsigned long long)validation.n);
    }
    print_hash(w, n);
    return 0;
}
