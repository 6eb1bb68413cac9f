# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Compiled fast path for common frames in the common state; the Python core handles all others.

A lane accepts a frame of one stream only if its spelling is exactly the venue's (fields and their
order, no spaces, 8 decimals, numbers that fit 64 bits) and it continues the previous frame. It then
does the same as the Python core, on the same state, and produces the same bytes. Otherwise it
changes nothing and returns False, and the Python core handles the frame: rare cases (gaps, parked
events, other spellings, huge numbers, bad input) are implemented once, in Python.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, strlen
from libcpp.deque cimport deque
from libcpp.vector cimport vector

from coinmesh_contracts import topics
from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from collector_binance.core import audit as _audit
from collector_binance.core.book import BookState, Parts
from coinmesh_sources.inputs import Input
from collector_binance.core.messages import Channel

cdef object _SYNCED = BookState.SYNCED
cdef object _TRADES = topics.TRADES.name
cdef object _QUOTES = topics.QUOTES.name
cdef object _BOOKS = topics.BOOKS.name
cdef int _CONFIRMATIONS = _audit.CONFIRMATIONS
cdef size_t _KEPT_QUOTES = _audit.KEPT_QUOTES
cdef int64_t ID_LIMIT = <int64_t>1 << 62  # as messages.Id and messages.Time
cdef int64_t TIME_LIMIT = <int64_t>1 << 52

# Prices and sizes from the Python core may exceed 64 bits, never 127 (units.MAX_LENGTH).
cdef extern from *:
    """
    typedef __int128 wide;
    """
    ctypedef long long wide


cdef struct Level:
    wide key  # the price, negative for asks, so that the best level is always the last
    wide size


cdef struct Top:
    wide bid_price
    wide bid_size
    wide ask_price
    wide ask_size


cdef struct Quoted:
    int64_t update_id
    Top top


cdef inline object as_int(wide value):
    if value == <wide><int64_t>value:
        return <int64_t>value
    return (<object><int64_t>(value >> 64) << 64) | <object><uint64_t>value


cdef inline wide as_wide(object value) except? -1:
    cdef int64_t high = value >> 64
    cdef uint64_t low = value & 0xFFFFFFFFFFFFFFFF
    return (<wide>high << 64) | low


# Reading: a cursor over the frame; each function advances past its token or returns False.

cdef struct Cursor:
    const char* at
    const char* end  # points to a NUL


cdef inline bint takes(Cursor* c, const char* text) noexcept:
    cdef size_t size = strlen(text)
    if <size_t>(c.end - c.at) < size or memcmp(c.at, text, size) != 0:
        return False
    c.at += size
    return True


cdef inline bint takes_bytes(Cursor* c, bytes text) noexcept:
    cdef Py_ssize_t size = PyBytes_GET_SIZE(text)
    if c.end - c.at < size or memcmp(c.at, PyBytes_AS_STRING(text), size) != 0:
        return False
    c.at += size
    return True


cdef inline bint integer(Cursor* c, int64_t limit, int64_t* out) noexcept:
    """Read a JSON integer below the limit, at most 18 digits."""
    cdef const char* start = c.at
    cdef int64_t value = 0
    while c"0" <= c.at[0] <= c"9" and c.at - start < 18:
        value = value * 10 + (c.at[0] - c"0")
        c.at += 1
    out[0] = value
    return c.at > start and (start[0] != c"0" or c.at - start == 1) and value < limit


cdef inline bint decimal(Cursor* c, int64_t* out) noexcept:
    """Read a quoted number with 1 to 10 digits before the point and 8 after it, in 1e-8."""
    cdef const char* start
    cdef int64_t value = 0
    cdef int digits
    if c.at[0] != c'"':
        return False
    c.at += 1
    start = c.at
    while c"0" <= c.at[0] <= c"9" and c.at - start < 10:
        value = value * 10 + (c.at[0] - c"0")
        c.at += 1
    if c.at == start or c.at[0] != c"." or c.end - c.at < 10:
        return False
    for digits in range(1, 9):
        if not c"0" <= c.at[digits] <= c"9":
            return False
        value = value * 10 + (c.at[digits] - c"0")
    out[0] = value
    if c.at[9] != c'"':
        return False
    c.at += 10
    return True


cdef inline str text_at(const char* start):
    """Return the text of the number that `decimal` read."""
    return PyUnicode_DecodeASCII(start, <const char*>memchr(start, c'"', 32) - start, NULL)


# Writing: Protobuf's wire format. https://protobuf.dev/programming-guides/encoding/

cdef inline char* put_varint(char* at, uint64_t value) noexcept:
    while value > 0x7F:
        at[0] = <char>(value & 0x7F | 0x80)
        at += 1
        value >>= 7
    at[0] = <char>value
    return at + 1


cdef inline char* put_field(char* at, char tag, uint64_t value) noexcept:
    at[0] = tag
    return put_varint(at + 1, value)


cdef inline char* put_units(char* at, char tag, int64_t units) noexcept:
    """Write a non-negative sint64; 0 is not written."""
    return put_field(at, tag, <uint64_t>units << 1) if units else at


cdef inline char* put_id(char* at, bytes prefix, int64_t number) noexcept:
    """Write field 1: the event's id, a prefix and a number."""
    cdef char digits[20]
    cdef int first = 20
    cdef Py_ssize_t size = PyBytes_GET_SIZE(prefix)
    while True:
        first -= 1
        digits[first] = <char>(c"0" + number % 10)
        number //= 10
        if number == 0:
            break
    at = put_field(at, 0x0A, size + 20 - first)
    memcpy(at, PyBytes_AS_STRING(prefix), size)
    memcpy(at + size, digits + first, 20 - first)
    return at + size + 20 - first


cdef class Side:
    """As `levels.Side`: the levels in order, the best one last."""

    cdef vector[Level] held
    cdef int sign

    def __init__(self, *, bint is_bid):
        self.sign = 1 if is_bid else -1

    cdef inline void read_best(self, wide* price, wide* size) noexcept:
        price[0] = size[0] = 0
        if not self.held.empty():
            price[0], size[0] = self.held.back().key * self.sign, self.held.back().size

    cdef inline void put(self, wide price, wide size):
        cdef wide key = price * self.sign
        cdef size_t low = 0, high = self.held.size(), middle
        cdef Level level
        while low < high:
            middle = (low + high) // 2
            if self.held[middle].key < key:
                low = middle + 1
            else:
                high = middle
        if low < self.held.size() and self.held[low].key == key:
            if size:
                self.held[low].size = size
            else:
                self.held.erase(self.held.begin() + low)
        elif size:
            level.key, level.size = key, size
            self.held.insert(self.held.begin() + low, level)

    def __len__(self):
        return self.held.size()

    @property
    def levels(self):
        return {as_int(level.key * self.sign): as_int(level.size) for level in self.held}

    def replace(self, prices, sizes):
        self.held.clear()
        for price, size in sorted(zip(prices, sizes, strict=True), key=lambda each: each[0] * self.sign):
            self.put(as_wide(price), as_wide(size))

    def apply(self, prices, sizes):
        for price, size in zip(prices, sizes, strict=True):
            self.put(as_wide(price), as_wide(size))

    def best(self):
        if self.held.empty():
            return 0, 0
        return as_int(self.held.back().key * self.sign), as_int(self.held.back().size)

    def top(self, count):
        cdef Py_ssize_t held = self.held.size(), each
        places = range(held - 1, max(held - 1 - count, -1), -1)
        prices = [as_int(self.held[each].key * self.sign) for each in places]
        return prices, [as_int(self.held[each].size) for each in places]


cdef class Audit:
    """As `audit.Audit`."""

    cdef deque[Quoted] quotes
    cdef Quoted waiting
    cdef bint is_waiting
    cdef int in_a_row
    cdef int64_t last_differing
    cdef readonly int64_t last_match, matches, differences
    cdef readonly str detail

    def __init__(self):
        self.last_differing = self.last_match = -1
        self.detail = ""

    def reset(self):
        self.quotes.clear()
        self.is_waiting = False
        self.in_a_row = 0

    def on_quote(self, update_id, top):
        return self.quote(update_id, as_top(top))

    def on_book(self, update_id, top):
        return self.book(update_id, as_top(top))

    cdef bint quote(self, int64_t update_id, Top top) except -1:
        cdef Quoted quoted
        quoted.update_id, quoted.top = update_id, top
        self.quotes.push_back(quoted)
        if self.quotes.size() > _KEPT_QUOTES:
            self.quotes.pop_front()
        if not self.is_waiting or update_id < self.waiting.update_id:
            return False
        self.is_waiting = False
        return self.book(self.waiting.update_id, self.waiting.top)

    cdef bint book(self, int64_t update_id, Top top) except -1:
        cdef Quoted quoted
        while self.quotes.size() > 1 and self.quotes[1].update_id <= update_id:
            self.quotes.pop_front()
        if self.quotes.empty() or self.quotes.front().update_id > update_id:
            return False
        quoted = self.quotes.front()
        if memcmp(&quoted.top, &top, sizeof(Top)) == 0:
            self.matches += 1
            self.last_match = update_id
            self.in_a_row = 0
            self.is_waiting = False
            return False
        if self.quotes.size() == 1 and quoted.update_id < update_id:
            self.is_waiting = True
            self.waiting.update_id, self.waiting.top = update_id, top
            return False
        self.differences += 1
        if quoted.update_id != self.last_differing:
            self.in_a_row += 1
            self.last_differing = quoted.update_id
        ours, theirs = as_tuple(top), as_tuple(quoted.top)
        self.detail = f"at update {update_id} the book's top is {ours}, bookTicker's {theirs}"
        return self.in_a_row >= _CONFIRMATIONS


cdef Top as_top(tuple units) except *:
    cdef Top top
    top.bid_price, top.bid_size = as_wide(units[0]), as_wide(units[1])
    top.ask_price, top.ask_size = as_wide(units[2]), as_wide(units[3])
    return top


cdef tuple as_tuple(Top top):
    return as_int(top.bid_price), as_int(top.bid_size), as_int(top.ask_price), as_int(top.ask_size)


cdef class Lane:
    """One stream of one instrument."""

    cdef object market, encoder
    cdef bytes key, head, event_id
    cdef bytes symbol  # as it appears in a frame, with the quotes

    def __init__(self, market):
        self.market, self.encoder = market, market.encoder
        self.key = market.encoder.key
        self.symbol = b'"s":"%s",' % market.symbol.encode()

    cdef bint take(self, Cursor* c, int64_t scale, int64_t receive_ns, list out) except -1:
        """Process the frame whose `data` begins at the cursor; False to use the Python core."""
        return False

    cdef bytes event(self, char* body, char* end):
        """Return the framed event: the constant head, then the body."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self.head)
        cdef bytes value = PyBytes_FromStringAndSize(NULL, size + (end - body))
        memcpy(PyBytes_AS_STRING(value), PyBytes_AS_STRING(self.head), size)
        memcpy(PyBytes_AS_STRING(value) + size, body, end - body)
        return value


cdef class TradeLane(Lane):
    """`<symbol>@trade`; as `Market._on_trade`."""

    cdef object trades

    def __init__(self, market):
        super().__init__(market)
        self.trades = market.trades
        self.head, self.event_id = self.encoder.trade_head, self.encoder.trade_id.encode()

    cdef bint take(self, Cursor* c, int64_t scale, int64_t receive_ns, list out) except -1:
        cdef int64_t published, number, price, size, traded
        cdef const char* price_text
        cdef const char* size_text
        cdef bint is_maker
        cdef char body[256]
        cdef char* at
        if not (
            takes(c, b'"e":"trade","E":')
            and integer(c, TIME_LIMIT, &published)
            and takes(c, b",")
            and takes_bytes(c, self.symbol)
            and takes(c, b'"t":')
            and integer(c, ID_LIMIT, &number)
            and takes(c, b',"p":')
        ):
            return False
        price_text = c.at + 1
        if not (decimal(c, &price) and takes(c, b',"q":')):
            return False
        size_text = c.at + 1
        if not (
            decimal(c, &size)
            and takes(c, b',"T":')
            and integer(c, TIME_LIMIT, &traded)
        ):
            return False
        is_maker = takes(c, b',"m":true')
        if not (is_maker or takes(c, b',"m":false')):
            return False
        if not (takes(c, b',"M":true}}') or takes(c, b',"M":false}}')) or c.at != c.end:
            return False
        trades, market = self.trades, self.market
        last = trades.last_id
        if last is None or <int64_t>last + 1 != number or market.is_doubled or market.klines.waiting:
            return False

        traded *= scale
        at = put_id(body, self.event_id, number)
        at = put_field(at, 0x10, traded)
        if receive_ns:
            at = put_field(at, 0x18, receive_ns)
        if number:
            at = put_field(at, 0x48, number)
        at = put_units(at, 0x50, price)
        at = put_units(at, 0x60, size)
        at = put_field(at, 0x70, 2 if is_maker else 1)
        at = put_field(at, 0x78, published * scale)
        trades.last_id, trades.last_time = number, traded
        trades.suspect = None
        trades.events += 1
        out.append((_TRADES, self.key, self.event(body, at)))
        if trades.listener is not None:
            trades.listener(number, text_at(price_text), text_at(size_text), is_maker, traded)
        return True


cdef class QuoteLane(Lane):
    """`<symbol>@bookTicker`; as `Market._on_quote`."""

    cdef object quotes, book
    cdef Audit audit

    def __init__(self, market):
        super().__init__(market)
        self.quotes, self.book = market.quotes, market.book
        self.audit = market.book.audit
        self.head, self.event_id = self.encoder.quote_head, self.encoder.quote_id.encode()

    cdef bint take(self, Cursor* c, int64_t scale, int64_t receive_ns, list out) except -1:
        cdef int64_t number, bid_price, bid_size, ask_price, ask_size
        cdef Top top
        cdef char body[256]
        cdef char* at
        if not (
            takes(c, b'"u":')
            and integer(c, ID_LIMIT, &number)
            and takes(c, b",")
            and takes_bytes(c, self.symbol)
            and takes(c, b'"b":')
            and decimal(c, &bid_price)
            and takes(c, b',"B":')
            and decimal(c, &bid_size)
            and takes(c, b',"a":')
            and decimal(c, &ask_price)
            and takes(c, b',"A":')
            and decimal(c, &ask_size)
            and takes(c, b"}}")
            and c.at == c.end
        ):
            return False
        quotes = self.quotes
        if number <= <int64_t>quotes.last_id:
            return False

        at = put_id(body, self.event_id, number)
        if receive_ns:
            at = put_field(at, 0x18, receive_ns)
        if number:
            at = put_field(at, 0x48, number)
        at = put_units(at, 0x50, bid_price)
        at = put_units(at, 0x58, bid_size)
        at = put_units(at, 0x60, ask_price)
        at = put_units(at, 0x68, ask_size)
        quotes.last_id = number
        quotes.events += 1
        out.append((_QUOTES, self.key, self.event(body, at)))
        top.bid_price, top.bid_size = bid_price, bid_size
        top.ask_price, top.ask_size = ask_price, ask_size
        if self.audit.quote(number, top):
            self.book.on_mismatch(receive_ns, out)
        return True


cdef struct Change:
    int64_t price
    int64_t size


cdef class Changes:
    """One side of a delta: its levels, and its two packed fields as they are built."""

    cdef vector[Change] levels
    cdef vector[char] prices, sizes

    cdef bint read(self, Cursor* c):
        cdef Change change
        cdef char* price_end
        cdef char* size_end
        self.levels.clear()
        # A level takes at least 26 characters, and at most 10 bytes of each field.
        self.prices.resize(c.end - c.at)
        self.sizes.resize(c.end - c.at)
        price_end, size_end = self.prices.data(), self.sizes.data()
        if not takes(c, b"["):
            return False
        if not takes(c, b"]"):
            while True:
                if not (
                    takes(c, b"[")
                    and decimal(c, &change.price)
                    and takes(c, b",")
                    and decimal(c, &change.size)
                    and takes(c, b"]")
                ):
                    return False
                self.levels.push_back(change)
                price_end = put_varint(price_end, <uint64_t>change.price << 1)
                size_end = put_varint(size_end, <uint64_t>change.size << 1)
                if takes(c, b"]"):
                    break
                if not takes(c, b","):
                    return False
        self.prices.resize(price_end - self.prices.data())
        self.sizes.resize(size_end - self.sizes.data())
        return True

    cdef void apply(self, Side side):
        cdef size_t each
        for each in range(self.levels.size()):
            side.put(self.levels[each].price, self.levels[each].size)


cdef inline char* put_packed(char* at, char tag, vector[char]& values) noexcept:
    if values.empty():
        return at
    at = put_field(at, tag, values.size())
    memcpy(at, values.data(), values.size())
    return at + values.size()


cdef class BookLane(Lane):
    """`<symbol>@depth`; as `Market._on_depth`."""

    cdef object book
    cdef Side bids, asks
    cdef Audit audit
    cdef Changes bid_changes, ask_changes
    cdef vector[char] body

    def __init__(self, market):
        super().__init__(market)
        self.book = market.book
        self.bids, self.asks, self.audit = self.book.bids, self.book.asks, self.book.audit
        self.bid_changes, self.ask_changes = Changes(), Changes()
        self.head, self.event_id = self.encoder.book_head, self.encoder.book_id.encode() + b"delta:"

    cdef bint take(self, Cursor* c, int64_t scale, int64_t receive_ns, list out) except -1:
        cdef int64_t published, first, number
        cdef Changes bids = self.bid_changes, asks = self.ask_changes
        cdef Top top
        cdef char* at
        if not (
            takes(c, b'"e":"depthUpdate","E":')
            and integer(c, TIME_LIMIT, &published)
            and takes(c, b",")
            and takes_bytes(c, self.symbol)
            and takes(c, b'"U":')
            and integer(c, ID_LIMIT, &first)
            and takes(c, b',"u":')
            and integer(c, ID_LIMIT, &number)
        ):
            return False
        book = self.book
        if (
            book.state is not _SYNCED
            or book.renewal is not None
            or book.observer is not None
            or self.market.is_doubled
            or not first <= <int64_t>book.last_id + 1 <= number
        ):
            return False
        if not (
            takes(c, b',"b":')
            and bids.read(c)
            and takes(c, b',"a":')
            and asks.read(c)
            and takes(c, b"}}")
            and c.at == c.end
        ):
            return False

        published *= scale
        self.body.resize(
            256 + bids.prices.size() + bids.sizes.size() + asks.prices.size() + asks.sizes.size()
        )
        at = put_id(self.body.data(), self.event_id, number)
        at = put_field(at, 0x10, published)
        if receive_ns:
            at = put_field(at, 0x18, receive_ns)
        at = put_field(at, 0x48, 1)
        if first:
            at = put_field(at, 0x50, first)
        at = put_field(at, 0x58, number)
        at = put_packed(at, 0x62, bids.prices)
        at = put_packed(at, 0x6A, bids.sizes)
        at = put_packed(at, 0x72, asks.prices)
        at = put_packed(at, 0x7A, asks.sizes)
        bids.apply(self.bids)
        asks.apply(self.asks)
        book.suspect = None
        book.last_id, book.last_time = number, published
        book.events += 1
        out.append((_BOOKS, self.key, self.event(self.body.data(), at)))
        self.bids.read_best(&top.bid_price, &top.bid_size)
        self.asks.read_best(&top.ask_price, &top.ask_size)
        if self.audit.book(number, top):
            book.on_mismatch(receive_ns, out)
        else:
            book.watch(receive_ns, out)
        return True


cdef class Fast:
    """An engine's compiled core."""

    cdef object engine
    cdef dict links

    def __init__(self, engine):
        self.engine, self.links = engine, engine.links

    @staticmethod
    def element(bytes payload not None, int64_t receive_ns, int64_t sequence):
        """As `FrameRecorder._serialize`."""
        cdef char head[64]
        cdef char tail[16]
        cdef Py_ssize_t size = PyBytes_GET_SIZE(payload), inner
        cdef char* head_end = put_field(head, 0x08, 1)
        cdef char* tail_end = tail
        if receive_ns:
            head_end = put_field(head_end, 0x10, receive_ns)
        if size:
            head_end = put_field(head_end, 0x1A, size)
        if sequence:
            tail_end = put_field(tail, 0x30, sequence)
        inner = (head_end - head) + size + (tail_end - tail)
        # The length prefix depends on the head's size, so it is written after the head.
        cdef char* begin = head_end
        cdef char* end = put_field(begin, 0x5A, inner)
        cdef bytes data = PyBytes_FromStringAndSize(NULL, (end - begin) + inner)
        cdef char* at = PyBytes_AS_STRING(data)
        memcpy(at, begin, end - begin)
        at += end - begin
        memcpy(at, head, head_end - head)
        at += head_end - head
        memcpy(at, PyBytes_AS_STRING(payload), size)
        memcpy(at + size, tail, tail_end - tail)
        return data

    def parts(self):
        """Return the parts of a book."""
        return Parts(Side(is_bid=True), Side(is_bid=False), Audit())

    def lanes(self, market):
        """Return an instrument's lanes by channel; none if the symbol's JSON spelling varies."""
        if not market.symbol.isalnum() or len(market.encoder.key) > 64:
            return {}
        return {
            Channel.TRADE: TradeLane(market),
            Channel.QUOTE: QuoteLane(market),
            Channel.BOOK: BookLane(market),
        }

    def process(self, bytes frame not None, receive_ns, connection):
        """As `Engine.process`."""
        cdef Cursor c
        cdef const char* name_end
        cdef list out
        c.at = PyBytes_AS_STRING(frame)
        c.end = c.at + PyBytes_GET_SIZE(frame)
        link = self.links.get(connection)
        if link is None or not takes(&c, b'{"stream":"'):
            return self.engine.process_any(frame, receive_ns, connection)
        name_end = <const char*>memchr(c.at, c'"', c.end - c.at)
        if name_end == NULL:
            return self.engine.process_any(frame, receive_ns, connection)
        route = (<dict>link.routes).get(PyBytes_FromStringAndSize(c.at, name_end - c.at))
        if route is None or (<tuple>route)[3] is None:
            return self.engine.process_any(frame, receive_ns, connection)
        c.at = name_end
        out = []
        try:
            if takes(&c, b'","data":{') and (<Lane>(<tuple>route)[3]).take(
                &c, link.scale, receive_ns, out
            ):
                self.engine.sequence += 1
                link.messages += 1
                return out
        except ValueError as error:
            self.engine.sequence += 1
            link.messages += 1
            taken = Input(FrameKind.FRAME_KIND_MESSAGE, connection, receive_ns, frame)
            self.engine.undecodable(taken, route, error, out)
            return out
        return self.engine.process_any(frame, receive_ns, connection)
