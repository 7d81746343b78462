// tokenizer_driver TOKENIZER: reads strings on standard input, each as its length (4 bytes, little-endian)
// and its bytes, and writes for each the number of its tokens and their ids, 4 bytes each. Standard error
// gets the CPU seconds of the encoding. Fails if the pieces of the tokens do not make up the string.
// dev/test/reference_tokenizer.py runs it.
#include "llmc/tokenizer.h"

static bool decodes_to(const Tokenizer *t, const TokenBuffer *tokens, const char *text, size_t size) {
    size_t at = 0;
    for (size_t i = 0; i < tokens->length; i++) {
        size_t piece_size;
        const char *piece = tokenizer_piece(t, tokens->ids[i], &piece_size);
        if (piece == NULL || size - at < piece_size || memcmp(text + at, piece, piece_size) != 0) {
            return false;
        }
        at += piece_size;
    }
    return at == size;
}

static bool encode_all(const Tokenizer *t, double *seconds, Error *err) {
    TokenBuffer tokens = {NULL, 0, 0};
    char *text = NULL;
    uint32_t size;
    bool ok = true;
    while (ok && fread(&size, sizeof size, 1, stdin) == 1) {
        free(text);
        text = (char *)allocate(size, 1, "a string", err);
        ok = text != NULL &&
             (fread(text, 1, size, stdin) == size || fail(err, "standard input ends in a string"));
        tokens.length = 0;
        clock_t begin = clock();
        ok = ok && tokenizer_encode(t, text, size, &tokens, err);
        *seconds += (double)(clock() - begin) / CLOCKS_PER_SEC;
        if (ok && !decodes_to(t, &tokens, text, size)) {
            ok = fail(err, "a string of %u bytes was not decoded", size);
        }
        if (ok) {
            uint32_t count = (uint32_t)tokens.length;
            fwrite(&count, sizeof count, 1, stdout);
            fwrite(tokens.ids, sizeof *tokens.ids, tokens.length, stdout);
        }
    }
    free(text);
    free(tokens.ids);
    return ok;
}

int main(int argc, char **argv) {
    Error err;
    Tokenizer t;
    double seconds = 0.0;
    bool ok = argc == 2 ? tokenizer_load(&t, argv[1], &err)
                        : fail(&err, "usage: tokenizer_driver TOKENIZER < strings");
    if (ok) {
        ok = encode_all(&t, &seconds, &err);
        tokenizer_free(&t);
    }
    if (ok) {
        fprintf(stderr, "%.6f\n", seconds);
    } else {
        fprintf(stderr, "error: %s\n", err.text);
    }
    return ok ? 0 : 1;
}
