/* Prints the size of every parameter block and the offset of every field, as a Rust array. */
#include "params.h"

#include <stddef.h>
#include <stdio.h>

int main(void) {
    puts("[");
#define BLOCK(block) printf("    (\"%s\", %zu),\n", #block, sizeof(block));
#define FIELD(block, field) printf("    (\"%s.%s\", %zu),\n", #block, #field, offsetof(block, field));
#include "layout_fields.h"
    puts("]");
    return 0;
}
