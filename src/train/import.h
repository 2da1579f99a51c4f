/* Parameters from files and to files: foreign weights, and the files of this library.
 *
 * A model or checkpoint is a safetensors file with the graph's parameters in their order, named and laid out as PyTorch's (OIHW), quantizer
 * parameters among them, and these metadata keys: */
#ifndef BWI_IMPORT_H
#define BWI_IMPORT_H
#include "base/alloc.h"
#include "io/io.h"
#include "nn/nn.h"

#define BWI_META_FORMAT    "format"              /* "pt": what Python's library wants to see */
#define BWI_META_VERSION   "bitwright.version"   /* BW_VERSION of the writer */
#define BWI_META_KIND      "bitwright.kind"      /* "model" or "checkpoint" */
#define BWI_META_RECIPE    "bitwright.recipe"    /* resolved recipe, YAML; of imported models only what describes the network */
#define BWI_META_NORMALIZE "bitwright.normalize" /* name of the normalisation that the network expects */
#define BWI_META_CLASSES   "bitwright.class_names" /* of the data set, with | between them; absent when it has none */

/* Loads every parameter of g that ts has. Names are compared without wrappers ("state_dict.", "module.", ...), then with customary other
 * names of layers (fc for linear, shortcut for downsample, ...). Any numeric type is converted to g's. A quantizer whose parameters are
 * all there becomes ready. *missing counts parameters without a tensor or with one of another shape, which keep their values; parameters of
 * quantizers are not counted, since they are set from data when they are not there, nor those of networks that make weights when the file has none
 * of them: these start from the layer's weights (bwi_hyper_adopt). *extra counts tensors that fit nothing (but for
 * num_batches_tracked). The first line of the report sums up; the others list what was found, is missing and is left over, with shapes. */
BW_MUST_USE bw_status bwi_import_params(bwi_graph *g, const bwi_tensors *ts, bwi_text *report, int *missing, int *extra,
                                        bw_error *err);
/* The same from a file of any format, where nothing may be missing and no layer may be left over. *report: one line, freed with bwi_free. */
BW_MUST_USE bw_status bwi_import_file(bwi_graph *g, const char *path, char **report, bw_error *err);

/* Appends copies of all parameters to ts, in the graph's order; not those of quantizers that are not ready, and of networks that make weights
 * (train/hyper.h) only with `blocks`. */
BW_MUST_USE bw_status bwi_export_params(const bwi_graph *g, bool blocks, bwi_tensors *ts, bw_error *err);
/* Appends the metadata above to ts. */
BW_MUST_USE bw_status bwi_export_meta(bwi_tensors *ts, const char *kind, const char *recipe, const char *normalize,
                                      bw_error *err);
/* Appends the names of classes, [n]; nothing when name is NULL. */
BW_MUST_USE bw_status bwi_export_classes(bwi_tensors *ts, const char *const *name, int n, bw_error *err);
#endif
