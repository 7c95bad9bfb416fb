/* safetensors.h: the list of tensors of a safetensors file, proved consistent. */
#ifndef SAFETENSORS_H
#define SAFETENSORS_H

#include "convert.h"

typedef struct {
    char name[256];
    char dtype[12];      /* as written: "BF16" ... */
    bool readable;       /* dtype is F32, F16 or BF16: then type is valid */
    SourceType type;
    size_t n_dims;
    uint64_t dims[8];    /* (n_dims) */
    uint64_t offset;     /* of the data in the file, checked to lie within it */
    uint64_t bytes;      /* dtype's size x dims */
} StTensor;

typedef struct {
    StTensor *tensors;   /* (n) in the order of their data */
    size_t n;
} StFile;

/* Read the header in m (the file `path`) and prove it: data of all tensors follow each other
 * without a hole from the header to the end of the file. Free st->tensors when done. */
bool safetensors_read(const Map *m, const char *path, StFile *st, Error *e);
/* Is t a readable matrix (rows, cols), or with rows = 1 also a vector (cols)? Errors name both. */
bool safetensors_expect(const StTensor *t, uint32_t rows, uint32_t cols, const char *path,
                        Error *e);

#endif
