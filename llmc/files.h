// files.h: paths, files and directories, and the one way in which this library saves: write under a temporary
// name, sync, rename. A file or directory with its final name is complete, whatever happens.
//
// Doors:
//   path_exists, path_is_directory, path_is_file
//   path_join, path_split
//   file_map, file_unmap               the bytes of a file, mapped read-only
//   file_read_text                     a small file as a string
//   file_create, file_write, file_finish, file_copy
//   directory_create, directory_remove, directory_sync, directory_lock
//   aside_begin_file, aside_begin_directory, aside_finish, aside_cancel, aside_name, aside_remove
#ifndef LLMC_FILES_H
#define LLMC_FILES_H

#include <fcntl.h>
#include <ftw.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "utils.h"

// ---------------------------------------------------------------------------------------------
// writing aside
//
//     Aside aside;
//     if (!aside_begin_file(&aside, path, err)) { return false; }
//     if (!file_write(aside.descriptor, data, size, path, err)) { return aside_cancel(&aside); }
//     return aside_finish(&aside, warning, err);

// A file or a directory on its way to `path`. All zeros: nothing is being written.
typedef struct {
    bool active;
    bool is_directory;
    char path[PATH_MAX];   // the name that it gets
    char aside[PATH_MAX];  // its name until then: .writing-NAME in the same directory
    int descriptor;        // of `aside`, locked: so another process can tell it from what a crash left
} Aside;

// Creates an empty file or directory aside. The directory of `path` must exist. What a crash left under the
// temporary name is removed; if another process is writing there, that is an error. On failure nothing is
// active.
static inline bool aside_begin_file(Aside *a, const char *path, Error *err);
static inline bool aside_begin_directory(Aside *a, const char *path, Error *err);

// Syncs and renames. An old file of that name is replaced. So is an old directory: it is first moved to
// .deleting-NAME, then removed, with a warning if that fails. If the system can exchange names, the name
// always belongs to one of the two. After a failure the temporary is gone, and an old file or directory still
// has its name.
static inline bool aside_finish(Aside *a, Error *warning, Error *err);

// Gives up and leaves nothing behind. Returns false. Does nothing if nothing is active.
static inline bool aside_cancel(Aside *a);

// Removes what a crash left under a temporary name. Fails if that is impossible and, with *live, if another
// process is writing there.
static inline bool aside_remove(const char *aside, bool *live, Error *err);

// ---------------------------------------------------------------------------------------------
// paths

// Whether anything has this name, even a dangling link.
static inline bool path_exists(const char *path) {
    struct stat info;
    return lstat(path, &info) == 0;
}

static inline bool path_is_directory(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static inline bool path_is_file(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

// Writes "dir/name" to out, PATH_MAX bytes of the caller's.
static inline bool path_join(char *out, const char *dir, const char *name, Error *err) {
    int length = snprintf(out, PATH_MAX, "%s/%s", dir, name);
    return (length >= 0 && length < PATH_MAX) ||
           fail(err, "%.200s.../%.200s: the path has %d bytes, expected fewer than %d", dir, name, length,
                PATH_MAX);
}

// Splits a path into the directory that holds it, at least "." or "/", and its last name, both PATH_MAX
// bytes.
static inline bool path_split(char *parent, char *name, const char *path, Error *err) {
    size_t length = strlen(path);
    if (length >= PATH_MAX) {
        return fail(err, "%.200s...: the path has %zu bytes, expected fewer than %d", path, length, PATH_MAX);
    }
    while (length > 1 && path[length - 1] == '/') { length--; }
    size_t begin = length;
    while (begin > 0 && path[begin - 1] != '/') { begin--; }
    if (length == begin) { return fail(err, "\"%s\": is not the name of a file or directory", path); }
    size_t parent_length = begin;
    while (parent_length > 1 && path[parent_length - 1] == '/') { parent_length--; }
    snprintf(parent, PATH_MAX, "%.*s", (int)parent_length, path);
    if (parent_length == 0) { snprintf(parent, PATH_MAX, "."); }
    snprintf(name, PATH_MAX, "%.*s", (int)(length - begin), path + begin);
    return true;
}

// ---------------------------------------------------------------------------------------------
// reading

// The bytes of a file, mapped read-only: nothing is copied until it is read.
typedef struct {
    const char *data;  // NULL when the file is empty
    size_t size;       // bytes
} MappedFile;

// Opens a regular file. Nothing else: opening a pipe would wait for a writer.
static inline bool file_open(int *descriptor, struct stat *info, const char *path, Error *err) {
    *descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*descriptor < 0) { return fail(err, "%s: cannot be opened: %s", path, strerror(errno)); }
    if (fstat(*descriptor, info) == 0 && S_ISREG(info->st_mode)) { return true; }
    close(*descriptor);
    return fail(err, "%s: is not a regular file", path);
}

static inline bool file_map(MappedFile *file, const char *path, Error *err) {
    struct stat info;
    int descriptor;
    file->data = NULL;
    file->size = 0;
    if (!file_open(&descriptor, &info, path, err)) { return false; }
    if (info.st_size > 0) {
        void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, descriptor, 0);
        if (data == MAP_FAILED) {
            close(descriptor);
            return fail(err, "%s: cannot be mapped into memory: %s", path, strerror(errno));
        }
        file->data = (const char *)data;
        file->size = (size_t)info.st_size;
    }
    close(descriptor);
    return true;
}

static inline void file_unmap(MappedFile *file) {
    if (file->data != NULL) { munmap((void *)file->data, file->size); }
    file->data = NULL;
    file->size = 0;
}

// The whole file as a string, which the caller frees; NULL with a message if it cannot be read, has more than
// `largest` bytes or is not text.
static inline char *file_read_text(const char *path, size_t largest, Error *err) {
    MappedFile file;
    char found[32], expected[32];
    if (!file_map(&file, path, err)) { return NULL; }
    char *text = NULL;
    if (file.size > largest) {
        fail(err, "%s: has %s, expected a file of this kind to have at most %s", path,
             format_bytes(found, file.size), format_bytes(expected, largest));
    } else if (file.size > 0 && memchr(file.data, '\0', file.size) != NULL) {
        fail(err, "%s: holds a NUL byte, expected text", path);
    } else {
        text = (char *)allocate(file.size + 1, 1, path, err);
    }
    if (text != NULL && file.size > 0) { memcpy(text, file.data, file.size); }
    file_unmap(&file);
    return text;
}

// ---------------------------------------------------------------------------------------------
// writing a file: file_create, file_write as often as needed, file_finish

static inline bool file_create(int *descriptor, const char *path, Error *err) {
    *descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    return *descriptor >= 0 || fail(err, "%s: cannot be created: %s", path, strerror(errno));
}

static inline bool file_write(int descriptor, const void *data, size_t size, const char *path, Error *err) {
    for (size_t done = 0; done < size;) {
        ssize_t written = write(descriptor, (const char *)data + done, size - done);
        if (written < 0 && errno == EINTR) { continue; }
        if (written <= 0) {
            return fail(err, "%s: cannot be written: %s", path, strerror(written < 0 ? errno : ENOSPC));
        }
        done += (size_t)written;
    }
    return true;
}

// fsync until no signal interrupts it.
static inline int sync_descriptor(int descriptor) {
    int result;
    do { result = fsync(descriptor); } while (result != 0 && errno == EINTR);
    return result;
}

// Syncs and closes the file, or removes it if `ok` is false or that fails.
static inline bool file_finish(int descriptor, bool ok, const char *path, Error *err) {
    if (ok && sync_descriptor(descriptor) != 0) {
        ok = fail(err, "%s: cannot be written: %s", path, strerror(errno));
    }
    if (close(descriptor) != 0 && ok) { ok = fail(err, "%s: cannot be written: %s", path, strerror(errno)); }
    if (!ok) { unlink(path); }
    return ok;
}

// A new file with the bytes of another.
static inline bool file_copy(const char *from, const char *to, Error *err) {
    MappedFile file;
    int descriptor;
    if (!file_map(&file, from, err)) { return false; }
    bool ok = file_create(&descriptor, to, err);
    if (ok) { ok = file_finish(descriptor, file_write(descriptor, file.data, file.size, to, err), to, err); }
    file_unmap(&file);
    return ok;
}

// ---------------------------------------------------------------------------------------------
// directories

// EINVAL and ENOTSUP come from file systems that cannot sync directories, and need not.
static inline bool directory_sync_descriptor(int descriptor, const char *path, Error *err) {
    return sync_descriptor(descriptor) == 0 || errno == EINVAL || errno == ENOTSUP || errno == EOPNOTSUPP ||
           fail(err, "%s: cannot be synced to the disk: %s", path, strerror(errno));
}

// Makes sure that the names in a directory are on the disk.
static inline bool directory_sync(const char *path, Error *err) {
    int descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) {
        // A directory may allow writing and forbid reading; it cannot be synced then.
        return errno == EACCES || fail(err, "%s: cannot be opened: %s", path, strerror(errno));
    }
    bool ok = directory_sync_descriptor(descriptor, path, err);
    close(descriptor);
    return ok;
}

// Creates one directory and syncs its name. Another process may create it at the same moment.
static inline bool directory_create_one(const char *path, Error *err) {
    char parent[PATH_MAX], name[PATH_MAX];
    if (mkdir(path, 0777) != 0) {
        int error = errno;
        if (error == EEXIST && path_is_directory(path)) { return true; }
        return fail(err, "%s: cannot be created: %s", path,
                    error == EEXIST ? "something that is not a directory has this name" : strerror(error));
    }
    if (!path_split(parent, name, path, err)) { return false; }
    return directory_sync(parent, err);
}

// Creates a directory and its missing parents.
static inline bool directory_create(const char *path, Error *err) {
    char prefix[PATH_MAX], name[PATH_MAX];
    if (path_is_directory(path)) { return true; }
    if (!path_split(prefix, name, path, err)) { return false; }  // checks the name and the length
    for (size_t end = 1, length = strlen(path); end <= length; end++) {
        bool at_end = path[end] == '/' || path[end] == '\0';
        if (!at_end || path[end - 1] == '/') { continue; }
        snprintf(prefix, sizeof prefix, "%.*s", (int)end, path);
        if (path_is_directory(prefix)) { continue; }
        if (!directory_create_one(prefix, err)) { return false; }
    }
    return true;
}

// Removes an entry. If one cannot be removed, the others still are; only the last entry, the directory
// itself, reports why it stays.
static inline int directory_remove_entry(const char *path, const struct stat *info, int type,
                                         struct FTW *walk) {
    (void)info, (void)type;
    return remove(path) != 0 && walk->level == 0 ? errno : 0;
}

// Removes a directory with everything in it, or a file. Links are removed, not followed. Nothing that is
// mounted inside is touched. If something cannot be removed, the directories around it stay too.
static inline bool directory_remove(const char *path, Error *err) {
    if (!path_exists(path)) { return true; }
    int error = nftw(path, directory_remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    if (error < 0) { error = errno; }
    return error == 0 || error == ENOENT || fail(err, "%s: cannot be removed: %s", path, strerror(error));
}

// What a failing flock means: another process, a file system without locks, or something else.
static inline bool lock_failed(int error, const char *path, Error *warning, Error *err) {
    switch (error) {
    case EWOULDBLOCK:
        return fail(err, "%s: another process is training this run; wait for it or stop it", path);
    case ENOLCK:
    case ENOSYS:
    case EINVAL:
    case EBADF:  // NFS, which cannot lock what is open for reading only
    case ENOTSUP:
#if EOPNOTSUPP != ENOTSUP
    case EOPNOTSUPP:
#endif
        add_warning(
            warning,
            "%s: its file system has no locks (%s), so nothing keeps a second process from training the same "
            "run",
            path, strerror(error));
        return true;
    default: return fail(err, "%s: cannot be locked: %s", path, strerror(error));
    }
}

// Locks a directory until *descriptor is closed, at the latest when the process ends. Fails if another
// process has it locked. A file system without locks is a warning.
static inline bool directory_lock(const char *path, int *descriptor, Error *warning, Error *err) {
    *descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*descriptor < 0) { return fail(err, "%s: cannot be opened: %s", path, strerror(errno)); }
    int result;
    do { result = flock(*descriptor, LOCK_EX | LOCK_NB); } while (result != 0 && errno == EINTR);
    if (result == 0 || lock_failed(errno, path, warning, err)) { return true; }
    close(*descriptor);
    *descriptor = -1;
    return false;
}

// ---------------------------------------------------------------------------------------------
// writing aside: how

// A temporary name belongs to the process that has locked the file or directory of that name. A process that
// creates a file or removes a leftover locks it first, then checks that it still has the name. So if two
// processes write the same name at once, one of them gets an error. On file systems without locks only this
// check is lost.
static inline bool aside_lock(int descriptor, const char *aside) {
    struct stat locked, named;
    if (flock(descriptor, LOCK_EX | LOCK_NB) != 0) { return errno != EWOULDBLOCK; }
    if (fstat(descriptor, &locked) != 0 || lstat(aside, &named) != 0) { return false; }
    return locked.st_dev == named.st_dev && locked.st_ino == named.st_ino;
}

static inline bool aside_remove(const char *aside, bool *live, Error *err) {
    int descriptor = open(aside, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    *live = descriptor >= 0 && !aside_lock(descriptor, aside);
    bool removed =
        *live ? fail(err, "%s: another process is writing it", aside) : directory_remove(aside, err);
    if (descriptor >= 0) { close(descriptor); }
    return removed;
}

// The first of PREFIXNAME, PREFIXNAME.1, ... beside `path` that is free or can be made free, into out. There
// are several because some leftovers cannot be removed: NFS keeps files that are open elsewhere.
static inline bool aside_name(char out[PATH_MAX], const char *prefix, const char *path, Error *err) {
    char parent[PATH_MAX], name[PATH_MAX], beside[PATH_MAX];
    enum { LONGEST = 230 };  // a file system's names have 255 bytes
    if (!path_split(parent, name, path, err)) { return false; }
    for (int i = 0; i < 10; i++) {
        Error ignored;
        bool live;
        int length = snprintf(beside, sizeof beside, "%s%.*s", prefix, LONGEST, name);
        if (i > 0) { snprintf(beside + length, sizeof beside - (size_t)length, ".%d", i); }
        if (!path_join(out, parent, beside, err)) { return false; }
        if (!path_exists(out)) { return true; }
        if (aside_remove(out, &live, &ignored)) { return true; }
        if (live) { return fail(err, "%s: another process is writing it", path); }
    }
    return fail(err, "%s: cannot be written: leftovers such as %s cannot be removed", path, out);
}

static inline bool aside_cancel(Aside *a) {
    Error ignored;
    if (!a->active) { return false; }
    directory_remove(a->aside, &ignored);
    close(a->descriptor);
    a->active = false;
    return false;
}

static inline bool aside_begin(Aside *a, const char *path, bool is_directory, Error *err) {
    memset(a, 0, sizeof *a);
    a->is_directory = is_directory;
    if (*path == '\0') { return fail(err, "\"\": cannot be created: the name is empty"); }
    if (!is_directory && path_is_directory(path)) {
        return fail(err, "%s: cannot be created: %s", path, strerror(EISDIR));
    }
    if (!aside_name(a->aside, ".writing-", path, err)) { return false; }
    snprintf(a->path, sizeof a->path, "%s", path);
    for (size_t end = strlen(a->path); end > 1 && a->path[end - 1] == '/'; end--) { a->path[end - 1] = '\0'; }
    bool created = !is_directory || mkdir(a->aside, 0777) == 0;
    int flags = is_directory ? O_RDONLY | O_DIRECTORY : O_WRONLY | O_CREAT | O_EXCL;
    a->descriptor = created ? open(a->aside, flags | O_CLOEXEC, 0666) : -1;
    if (a->descriptor < 0) { return fail(err, "%s: cannot be created: %s", path, strerror(errno)); }
    a->active = true;
    if (aside_lock(a->descriptor, a->aside)) { return true; }
    close(a->descriptor);  // the name now belongs to the other process
    a->active = false;
    return fail(err, "%s: another process is writing it", path);
}

static inline bool aside_begin_file(Aside *a, const char *path, Error *err) {
    return aside_begin(a, path, false, err);
}

static inline bool aside_begin_directory(Aside *a, const char *path, Error *err) {
    return aside_begin(a, path, true, err);
}

// Moves an old directory out of the way, to `old`; an empty `old` means that there is none.
static inline bool aside_move_old(const Aside *a, char old[PATH_MAX], Error *err) {
    old[0] = '\0';
    if (!a->is_directory || !path_exists(a->path)) { return true; }
    if (!path_is_directory(a->path)) {
        return fail(err, "%s: is in the way, and is not a directory: move it elsewhere", a->path);
    }
    if (!aside_name(old, ".deleting-", a->path, err)) { return false; }
    return rename(a->path, old) == 0 || fail(err, "%s: cannot be replaced: %s", a->path, strerror(errno));
}

// Exchanges the names of the new directory and an old one, so the name always exists, then moves the old one
// to `old`. False if there is no old one, or the system cannot do that.
static inline bool aside_exchange(const Aside *a, char old[PATH_MAX]) {
#ifdef RENAME_EXCHANGE
    Error ignored;
    if (!a->is_directory || !path_is_directory(a->path)) { return false; }
    if (renameat2(AT_FDCWD, a->aside, AT_FDCWD, a->path, RENAME_EXCHANGE) != 0) { return false; }
    if (!aside_name(old, ".deleting-", a->path, &ignored) || rename(a->aside, old) != 0) {
        snprintf(old, PATH_MAX, "%s", a->aside);
    }
    return true;
#else
    (void)a, (void)old;
    return false;
#endif
}

// Gives the final name, and gives it back to the old directory if that fails.
static inline bool aside_rename(const Aside *a, char old[PATH_MAX], Error *err) {
    if (aside_exchange(a, old)) { return true; }
    if (!aside_move_old(a, old, err)) { return false; }
    if (rename(a->aside, a->path) == 0) { return true; }
    fail(err, "%s: cannot be renamed to %s: %s", a->aside, a->path, strerror(errno));
    if (old[0] != '\0' && rename(old, a->path) != 0) {
        fail(err, "%s\nWhat had this name before is %s now.", err->text, old);
    }
    return false;
}

static inline bool aside_sync(const Aside *a, Error *err) {
    if (a->is_directory) { return directory_sync_descriptor(a->descriptor, a->path, err); }
    return sync_descriptor(a->descriptor) == 0 ||
           fail(err, "%s: cannot be written: %s", a->path, strerror(errno));
}

static inline bool aside_finish(Aside *a, Error *warning, Error *err) {
    char old[PATH_MAX], parent[PATH_MAX], name[PATH_MAX];
    Error stays;
    if (!aside_sync(a, err)) { return aside_cancel(a); }
    if (!aside_rename(a, old, err)) { return aside_cancel(a); }
    a->active = false;
    if (close(a->descriptor) != 0 && errno != EINTR) {
        return fail(err, "%s: cannot be written: %s", a->path, strerror(errno));
    }
    if (!path_split(parent, name, a->path, err)) { return false; }
    if (!directory_sync(parent, err)) { return false; }
    if (old[0] != '\0' && !directory_remove(old, &stays)) { add_warning(warning, "%s", stays.text); }
    return true;
}

#endif
