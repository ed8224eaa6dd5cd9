IN_ATTRIB: int
IN_CLOSE_WRITE: int
IN_CREATE: int
IN_DELETE: int
IN_DELETE_SELF: int
IN_DONT_FOLLOW: int
IN_IGNORED: int
IN_ISDIR: int
IN_MOVED_FROM: int
IN_MODIFY: int
IN_MOVED_TO: int
IN_MOVE_SELF: int
IN_ONLYDIR: int
IN_Q_OVERFLOW: int
IN_UNMOUNT: int

class INotifyWrapper:
    @staticmethod
    def create() -> INotifyWrapper | None: ...
    def get_errno(self) -> int: ...
    def inotify_init(self) -> int: ...
    def inotify_add_watch(self, fd: int, pathname: str, mask: int) -> int: ...
    def inotify_rm_watch(self, fd: int, wd: int) -> int: ...
