/* Threads get the stack that Linux gives by default, whatever smaller one a library asks for. See peer.deep_stacks. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>

int pthread_attr_setstacksize(pthread_attr_t *attributes, size_t size)
{
    static const size_t usual = 8u << 20;
    int (*next)(pthread_attr_t *, size_t) = (int (*)(pthread_attr_t *, size_t))dlsym(RTLD_NEXT, __func__);
    return next(attributes, size < usual ? usual : size);
}
