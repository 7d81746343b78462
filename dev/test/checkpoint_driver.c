// checkpoint_driver.c: what reference_checkpoint.py compares with the Hugging Face libraries.
//
//   checkpoint_driver preset NAME OUT.json          writes the configuration of a size, prints its parameters
//   checkpoint_driver config IN.json OUT.json       reads a configuration and writes it
//   checkpoint_driver model IN OUT [TOKENIZER]      loads a model directory and writes it as F32
//   checkpoint_driver tensors                       for each path on a line of input: "error", or a list of its
//                                                   tensors as NAME DTYPE COUNT SUM-OF-BYTES, and "."
#include "llmc/checkpoint.h"

#include "stub_model.h"

static bool write_preset(const char *name, const char *out, Error *err) {
    OLMo2Config config;
    if (!olmo2_preset(&config, name)) { return fail(err, "%s: no such size", name); }
    printf("%zu\n", parameter_total(&config));
    return config_write(&config, NULL, out, err);
}

static bool convert_config(const char *in, const char *out, Error *err) {
    OLMo2Config config;
    Error warning = {""};
    return config_read(&config, in, &warning, err) && config_write(&config, NULL, out, err);
}

static bool convert_model(const char *in, const char *out, const char *tokenizer, Error *err) {
    OLMo2Config config;
    const OLMo2Room room = olmo2_room_to_measure(0, 0);
    const OLMo2Form form = olmo2_form();
    OLMo2 *m;
    ConfigFiles said;
    Error warning = {""};
    if (!config_read_directory(&config, &said, in, &warning, err) ||
        !olmo2_create(&m, &config, &room, &form, err)) {
        return false;
    }
    const CheckpointParts parts = {&said, tokenizer, NULL};
    bool ok = checkpoint_load_weights(m, in, NULL, NULL, err) &&
              checkpoint_write_model(m, out, &parts, &warning, err);
    config_files_free(&said);
    olmo2_free(m);
    return ok;
}

static void list_tensors(const char *path) {
    Safetensors st;
    Error err;
    if (!safetensors_open(&st, path, &err)) {
        printf("error\n");
        return;
    }
    for (size_t i = 0; i < st.count; i++) {
        const SafetensorsTensor *t = &st.tensors[i];
        size_t sum = 0;
        for (size_t k = 0; k < t->bytes; k++) { sum += (unsigned char)t->data[k]; }
        printf("%s %s %zu %zu ", t->name, safetensors_dtypes[t->dtype].name, t->count, sum);
    }
    printf(".\n");
    safetensors_close(&st);
}

int main(int argc, char **argv) {
    const char *verb = argc > 1 ? argv[1] : "";
    Error err = {""};
    bool ok = false;
    if (strcmp(verb, "preset") == 0 && argc == 4) {
        ok = write_preset(argv[2], argv[3], &err);
    } else if (strcmp(verb, "config") == 0 && argc == 4) {
        ok = convert_config(argv[2], argv[3], &err);
    } else if (strcmp(verb, "model") == 0 && (argc == 4 || argc == 5)) {
        ok = convert_model(argv[2], argv[3], argc == 5 ? argv[4] : NULL, &err);
    } else if (strcmp(verb, "tensors") == 0 && argc == 2) {
        char path[PATH_MAX];
        while (fgets(path, sizeof path, stdin) != NULL) {
            path[strcspn(path, "\n")] = '\0';
            list_tensors(path);
        }
        ok = true;
    } else {
        fail(&err, "unknown arguments; see the first lines of checkpoint_driver.c");
    }
    if (!ok) { fprintf(stderr, "error: %s\n", err.text); }
    return ok ? 0 : 1;
}
