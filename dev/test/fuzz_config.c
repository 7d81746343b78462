// fuzz_config.c: any bytes as a config.json. If a configuration is accepted, its sizes do not overflow, and
// writing and reading it gives it back, with whatever members the first file had besides.
#include "llmc/config.h"

#include "stub_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char path[] = "/tmp/fuzz_config_XXXXXX";
    JsonDocument doc;
    OLMo2Config config, again;
    Error err, warning = {""};
    if (!json_parse(&doc, (const char *)data, size, "fuzz", &err)) { return 0; }
    bool ok = config_from_json(&config, doc.root, "fuzz", &warning, &err);
    json_free(&doc);
    if (!ok) {
        if (strncmp(err.text, "fuzz: ", 6) != 0) { abort(); }
        return 0;
    }
    size_t total = parameter_total(&config), bytes;
    if (total == 0 || total > parameter_array_size(&config) || !multiply_sizes(total, 16, &bytes)) {
        abort();
    }
    if (strcmp(path + strlen(path) - 6, "XXXXXX") == 0 && mkstemp(path) < 0) { abort(); }
    unlink(path);
    char *said = strndup((const char *)data, size);
    if (!config_write(&config, said, path, &err) || !config_read(&again, path, &warning, &err) ||
        memcmp(&config, &again, sizeof config) != 0) {
        abort();
    }
    free(said);
    return 0;
}
