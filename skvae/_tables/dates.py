"""Columns of dates and of durations: as days on the way in, in the dtype, unit and time zone of a table on the way out.

A date counts by the clock of its time zone, so that midnights are whole days the year round.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

from .._support.warnings import cut
from .cycles import Cycles
from .date_texts import as_iso, date_format, iso_format_of, offset_of, written, zone_of
from .dtypes import arrow_type, is_missing, pandas_dtype, polars_dtype
from .unread import is_blank

__all__ = ["DateDtype", "Dates", "DecodedDates", "array_days", "date_dtype_of", "plain_days", "ticks_of"]

_PER_DAY = {"day": 1, "D": 1, "s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
# Steps of a day on which all values of a column may lie, the coarsest first.
_STEPS = (1, 24, 1440, *(_PER_DAY[unit] for unit in ("s", "ms", "us", "ns")))
_EPOCH = date(1970, 1, 1)
# First and last day of the years 1 to 9999; how many days at either end are not in all time zones; days of which
# 64 bits hold the nanoseconds; and of the longest duration.
_YEARS, _ZONED = ((date.min - _EPOCH).days, (date.max - _EPOCH).days), 2.0
_FARTHEST = {_PER_DAY["ns"]: 106_750.0}
_LONGEST = 1e8
_NAMES = {
    "date": (
        r"datetime64\[(?P<unit>\w+)(, (?P<zone>.+))?\]",
        r"timestamp\[(?P<unit>\w+)(, tz=(?P<zone>.+))?\]\[arrow\]",
        r"date(32|64)\[(?P<unit>\w+)\]\[arrow\]",
        r"Datetime\((?P<unit>\w+)(, (?P<zone>.+))?\)",
    ),
    "duration": (
        r"timedelta64\[(?P<unit>\w+)\]",
        r"duration\[(?P<unit>\w+)\]\[arrow\]",
        r"Duration\((?P<unit>\w+)\)",
    ),
}
_FIXED = re.compile(r"(?:UTC)?([+-])(\d\d):(\d\d)")
_MINUTES = re.compile(r"pytz\.FixedOffset\((-?\d+)\)")
# Offsets from UTC change at quarters of an hour.
_QUARTER = 900


class DateDtype(NamedTuple):
    """What a dtype holds of a date or a duration."""

    kind: str  # "date" or "duration"
    per_day: int  # its units in a day
    zone: str | None  # of its clock; the units then count from 1970 in UTC


@lru_cache(maxsize=256)
def date_dtype_of(name: str) -> DateDtype | None:
    """What a dtype of dates or durations holds, by its name; None for any other."""
    if name == "Date":
        return DateDtype("date", 1, None)
    if name.startswith("period["):  # at its start
        return DateDtype("date", _PER_DAY["us"], None)
    if name.startswith("object:"):
        kind, _, zone = name.removeprefix("object:").partition(", ")
        kinds = {"date": DateDtype("date", 1, None), "timedelta": DateDtype("duration", _PER_DAY["us"], None)}
        return DateDtype("date", _PER_DAY["us"], zone or None) if kind == "datetime" else kinds.get(kind)
    for kind, patterns in _NAMES.items():
        for pattern in patterns:
            found = re.fullmatch(pattern, name)
            if found:
                parts = found.groupdict()
                return DateDtype(kind, _PER_DAY[parts["unit"]], parts.get("zone"))
    return None


# --- From a column to days ------------------------------------------------------------------------------------------


def ticks_of(column: Any, dtype: DateDtype) -> tuple[np.ndarray, np.ndarray]:
    """Units since 1970, or of a duration, and which cells are missing, of a column whose dtype has them.

    Parameters
    ----------
    column : Series of pandas or polars, or array of NumPy or Arrow
    dtype : DateDtype
        The column's.

    Returns
    -------
    ticks : ndarray of shape (n_samples,), of int64
        By the clock of the column's time zone.
    missing : ndarray of bool of shape (n_samples,)
    """
    if hasattr(getattr(column, "dtype", None), "freq"):
        column = column.dt.to_timestamp().astype("datetime64[us]")
    if isinstance(column, np.ndarray):
        missing, ticks = np.isnat(column), column.astype(np.int64)
    elif hasattr(column, "to_physical"):
        missing = column.is_null().to_numpy()
        ticks = column.to_physical().fill_null(0).to_numpy().astype(np.int64)
    elif hasattr(column, "dt") and not hasattr(getattr(column, "dtype", None), "pyarrow_dtype"):
        missing = column.isna().to_numpy()
        ticks = (column.dt.tz_convert(None) if dtype.zone else column).to_numpy().view(np.int64).copy()
    else:
        import pyarrow

        array = column.array.__arrow_array__() if hasattr(column, "array") else column
        missing = np.asarray(array.is_null())
        small = array.cast(pyarrow.int32()) if pyarrow.types.is_date32(array.type) else array.cast(pyarrow.int64())
        ticks = small.fill_null(0).to_numpy().astype(np.int64)
    ticks = np.where(missing, 0, ticks)
    return _local(ticks, dtype.per_day, dtype.zone), missing


def _in_days(ticks: np.ndarray, missing: np.ndarray, per_day: int) -> np.ndarray:
    """Units as days, NaN where missing."""
    days = ticks // per_day + (ticks % per_day) / per_day
    return np.where(missing, np.nan, days)


def _local(ticks: np.ndarray, per_day: int, zone: str | None) -> np.ndarray:
    """From UTC to the clock of a time zone."""
    if zone is None or per_day == 1:
        return ticks
    per_second = per_day // 86_400
    return ticks + per_second * _offsets(ticks // per_second, zone, is_local=False)


def _universal(ticks: np.ndarray, per_day: int, zone: str | None) -> np.ndarray:
    """From the clock of a time zone to UTC: the first of two times that it shows in autumn."""
    if zone is None or per_day == 1:
        return ticks
    per_second = per_day // 86_400
    return ticks - per_second * _offsets(ticks // per_second, zone, is_local=True)


def _offsets(seconds: np.ndarray, zone: str, *, is_local: bool) -> np.ndarray:
    """How far the clock of a time zone is ahead of UTC, in seconds, at some seconds since 1970 of either."""
    clock = _clock(zone)
    quarters, places = np.unique(seconds // _QUARTER, return_inverse=True)
    return np.array([_offset(int(one) * _QUARTER, clock, is_local=is_local) for one in quarters], dtype=np.int64)[
        places
    ]


def _offset(seconds: int, clock: tzinfo, *, is_local: bool) -> int:
    try:
        moment = datetime(1970, 1, 1, tzinfo=clock if is_local else UTC) + timedelta(seconds=seconds)
        offset = (moment if is_local else moment.astimezone(clock)).utcoffset()
    except OverflowError:  # beyond the years 1 to 9999
        return 0
    return 0 if offset is None else round(offset.total_seconds())


@lru_cache(maxsize=64)
def _clock(zone: str) -> tzinfo:
    """The time zone of a name; UTC where this machine does not know it."""
    fixed, minutes = _FIXED.fullmatch(zone), _MINUTES.fullmatch(zone)
    if fixed:
        sign, hours, rest = fixed.groups()
        return timezone((1 if sign == "+" else -1) * timedelta(hours=int(hours), minutes=int(rest)))
    if minutes:
        return timezone(timedelta(minutes=int(minutes[1])))
    try:
        return ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        return UTC


def plain_days(cells: Sequence[Any]) -> np.ndarray | None:
    """Plain dates, or durations, or texts that are dates as days, NaN where missing; None for anything else."""
    known = [cell for cell in cells if not is_missing(cell)]
    kinds = [kind for kind, one in (("date", date), ("duration", timedelta)) if known and isinstance(known[0], one)]
    format = date_format(known) if known and all(isinstance(cell, str) for cell in known) else None
    if not kinds and format is None:
        return None
    whole = Dates(kinds[0] if kinds else "date", _PER_DAY["us"], None, format)
    try:
        return whole.read(None, "object", lambda: cells, None)[0]
    except ValueError:
        return None


def array_days(column: np.ndarray) -> np.ndarray | None:
    """An array of NumPy's dates or durations as days, NaN where missing; None for any other."""
    if column.dtype.kind not in "mM":
        return None
    missing, kind = np.isnat(column), "datetime64" if column.dtype.kind == "M" else "timedelta64"
    ticks = column.astype(f"{kind}[us]").view(np.int64)
    return _in_days(np.where(missing, 0, ticks), missing, _PER_DAY["us"])


# --- What is known of a column --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dates:
    """A column of dates or durations.

    Attributes
    ----------
    kind : {"date", "duration"}
    per_day : int
        Steps of a day on which all values lie: 1 for dates without a time.
    zone : str, or None
        Name of the time zone whose clock counts.
    format : str, or None
        How dates are written as text, as `date_format` has it; None where the dtype holds them.
    cycles : Cycles, or None
        By which the days are written in parts; None where they are one number.
    """

    kind: str
    per_day: int
    zone: str | None = None
    format: str | None = None
    cycles: Cycles | None = None

    @classmethod
    def of(cls, ticks: np.ndarray, dtype: DateDtype, format: str | None = None) -> "Dates":
        """Learn on which steps some units lie."""
        known = [step for step in _STEPS if step <= dtype.per_day]
        per_day = next(step for step in known if not (ticks % (dtype.per_day // step)).any())
        return cls(dtype.kind, per_day, dtype.zone, format)

    @property
    def called(self) -> str:
        """What messages call the values."""
        return "dates" if self.kind == "date" else "durations"

    def read(self, column: Any, name: str, cells: Any, label: Any) -> tuple[np.ndarray, list[str]]:
        """Days of a column, NaN where missing, and the texts that count as missing because they are no dates.

        Parameters
        ----------
        column : column of any library
        name : str
            Of its dtype.
        cells : callable
            Gives its plain values, where the dtype holds none of this kind.
        label : label

        Returns
        -------
        days : ndarray of shape (n_samples,)
        unread : list of str
            Of each such cell.

        Raises
        ------
        ValueError
            If a value is of another kind; it names the first one.
        """
        dtype = date_dtype_of(name)
        if dtype is not None and dtype.kind == self.kind and not name.startswith("object"):
            ticks, missing = ticks_of(column, dtype)
            if self.zone is not None and dtype.zone not in (None, self.zone):
                ticks = _local(_universal(ticks, dtype.per_day, dtype.zone), dtype.per_day, self.zone)
            return _in_days(ticks, missing, dtype.per_day), []
        values = cells()
        days = np.array([self._day(value) for value in values], dtype=float)
        wrong = np.flatnonzero(np.isinf(days))
        if len(wrong):
            row = int(wrong[0])
            raise ValueError(
                f"Column {label!r} must hold {self.called}, as in the rows that were fitted, but row {row} holds "
                f"{cut(repr(values[row]))}. Pass the column as it was fitted, or mark the cell as missing."
            )
        return days, [values[row] for row in np.flatnonzero(np.isnan(days)).tolist() if not is_blank(values[row])]

    def _day(self, value: Any) -> float:
        """Days of a plain value, NaN for a text that is no date, infinite for a value of another kind."""
        if is_missing(value):
            return np.nan
        if isinstance(value, str) and self.kind == "date":
            iso = as_iso(value, self.format, _clock(self.zone) if self.zone and self.format is None else None)
            if iso is None:
                return np.nan
            value = datetime.fromisoformat(iso)
        if isinstance(value, timedelta) != (self.kind == "duration") or not isinstance(value, (date, timedelta)):
            return np.inf
        return _plain_ticks(value, self.zone) / _PER_DAY["us"]

    def state(self) -> dict[str, Any]:
        """Plain values for a pickle; without what does not apply, as earlier versions read it."""
        state = {"kind": self.kind, "per_day": self.per_day, "zone": self.zone, "shape": self.format}
        return state if self.cycles is None else state | {"cycles": self.cycles.state()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Dates":
        """Inverse of `state`.

        Raises
        ------
        ValueError
            If it is no kind of date.
        """
        cycles = None if state.get("cycles") is None else Cycles.from_state(state["cycles"])
        zone = state["zone"] or zone_of(state["shape"])  # None of texts that end in "Z", in earlier versions
        made = cls(state["kind"], int(state["per_day"]), zone, state["shape"], cycles)
        if made.kind not in ("date", "duration") or made.per_day not in _STEPS:
            raise ValueError(f"{made.called} have the kind {made.kind!r} and {made.per_day} steps in a day")
        return made


def _plain_ticks(value: Any, zone: str | None = None) -> int:
    """Microseconds of a plain date, time or duration, by the clock of a time zone if the value has one."""
    if isinstance(value, timedelta):
        return value // timedelta(microseconds=1)
    if not isinstance(value, datetime):
        return (value - _EPOCH).days * _PER_DAY["us"]
    if value.tzinfo is not None:
        value = (value.astimezone(_clock(zone)) if zone else value).replace(tzinfo=None)
    return (value - datetime(1970, 1, 1)) // timedelta(microseconds=1)


# --- From days to a column ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DecodedDates:
    """A column of dates or durations that a model gives, as days, on its way into a dtype.

    Attributes
    ----------
    days : ndarray of shape (n_samples,)
        NaN where missing.
    dates : Dates
    """

    days: np.ndarray
    dates: Dates

    def __len__(self) -> int:
        return len(self.days)

    @property
    def missing(self) -> np.ndarray:
        """Which cells hold nothing."""
        return np.isnan(self.days)

    def with_given(self, days: np.ndarray) -> "DecodedDates":
        """The same on steps on which some given days lie, too."""
        known = days[~np.isnan(days)]
        finer = (step for step in _STEPS if step >= self.dates.per_day)
        per_day = next((s for s in finer if (np.abs(known * s - np.rint(known * s)) < 1e-4).all()), self.dates.per_day)
        return replace(self, dates=replace(self.dates, per_day=per_day))

    def ticks(self, dtype: DateDtype) -> np.ndarray:
        """Units of a dtype, 0 where missing; what it cannot hold is moved to the end of its range."""
        low, high = self._range(dtype)
        most = _FARTHEST.get(dtype.per_day, np.inf)
        days = np.clip(np.nan_to_num(self.days), max(low, -most), min(high, most))
        steps = np.rint(days * self.dates.per_day)
        if dtype.per_day >= self.dates.per_day:
            ticks = steps.astype(np.int64) * (dtype.per_day // self.dates.per_day)
        else:
            ticks = np.floor(steps / (self.dates.per_day // dtype.per_day)).astype(np.int64)
        return ticks if dtype.zone is None else _universal(ticks, dtype.per_day, self.dates.zone or dtype.zone)

    def _range(self, dtype: DateDtype) -> tuple[float, float]:
        """Least and greatest number of days; the last step of a day, of a second at least, that is exact in floats."""
        if self.dates.kind != "date":
            return -_LONGEST, _LONGEST
        if dtype.zone is not None or self.dates.zone is not None:
            return _YEARS[0] + _ZONED, _YEARS[1] - _ZONED
        return _YEARS[0], _YEARS[1] + 1.0 - 1.0 / min(self.dates.per_day, _PER_DAY["s"])

    def objects(self, name: str = "object") -> list[Any]:
        """Plain dates, times, durations, or text, None where missing."""
        dtype, micro = date_dtype_of(name), _PER_DAY["us"]
        if dtype is None and self.dates.format is not None:
            return self.texts()
        if self.dates.kind == "duration":
            ticks = self.ticks(DateDtype("duration", micro, None)).tolist()
            made: list[Any] = [timedelta(microseconds=tick) for tick in ticks]
        elif dtype is not None and dtype.per_day == 1:
            made = [_EPOCH + timedelta(days=tick) for tick in self.ticks(dtype).tolist()]
        else:
            zone = self.dates.zone if dtype is None else dtype.zone
            ticks = self.ticks(DateDtype("date", micro, zone)).tolist()
            start = datetime(1970, 1, 1, tzinfo=None if zone is None else UTC)
            made = [start + timedelta(microseconds=tick) for tick in ticks]
            made = made if zone is None else [one.astimezone(_clock(zone)) for one in made]
        return [None if gone else one for one, gone in zip(made, self.missing.tolist(), strict=True)]

    def texts(self) -> list[Any]:
        """Dates as text, None where missing."""
        format = self.dates.format or "0000-00-00T00:00:00"[: 10 if self.dates.per_day == 1 else 19]
        offset = offset_of(format)
        body = iso_format_of(format).removesuffix(offset)
        ticks = self.ticks(DateDtype("date", _PER_DAY["us"], None))
        found = np.datetime_as_string(ticks.view("datetime64[us]"), unit="us").tolist()
        made = [text[: len(body)].replace("T", body[10:11] or "T") for text in found]
        made = [written(text, format) + offset for text in made]
        return [None if gone else one for one, gone in zip(made, self.missing.tolist(), strict=True)]

    def series(self, library: str, name: str, label: Any, index: Any) -> Any:
        """A column of a dtype of dates or durations.

        Parameters
        ----------
        library : {"pandas", "polars", "pyarrow"}
        name : str
            Of the dtype.
        label : label
        index : Index, or None
            Row labels of a column of pandas.

        Returns
        -------
        column : pandas.Series, polars.Series or pyarrow.Array
        """
        dtype = date_dtype_of(name) or DateDtype(self.dates.kind, _PER_DAY["us"], None)
        if library == "polars":
            import polars as pl

            return _polars(pl, label, self.ticks(dtype), self.missing).cast(polars_dtype(name))
        if name.endswith("[arrow]"):
            import pyarrow

            kind = arrow_type(name)
            ticks = self.ticks(dtype).astype(np.int32 if pyarrow.types.is_date32(kind) else np.int64)
            array = pyarrow.array(ticks, mask=self.missing).cast(kind)
            if library == "pyarrow":
                return array
        import pandas as pd

        if name.endswith("[arrow]"):
            return pd.Series(pd.arrays.ArrowExtensionArray(array), index=index)
        if name.startswith("object"):
            return pd.Series(self.objects(name), index=index, dtype=object)
        ticks = np.where(self.missing, np.iinfo(np.int64).min, self.ticks(dtype))
        if name.startswith("period["):
            return _periods(pd.Series(ticks.view("datetime64[us]"), index=index), pandas_dtype(name).freq)
        unit = name.partition("[")[2].partition("]")[0].partition(",")[0]
        column = pd.Series(ticks.view(f"{'datetime' if dtype.kind == 'date' else 'timedelta'}64[{unit}]"), index=index)
        return column if dtype.zone is None else column.dt.tz_localize("UTC").dt.tz_convert(_pandas_zone(name))


def _periods(days: Any, freq: Any) -> Any:
    """The period whose start is nearest."""
    periods = days.dt.to_period(freq)
    following = periods + 1
    return periods.where(days - periods.dt.start_time <= following.dt.start_time - days, following)


def _pandas_zone(name: str) -> Any:
    """The time zone of a dtype of pandas; UTC for one that has no name, such as that of a file."""
    try:
        return pandas_dtype(name).tz
    except (TypeError, ValueError, LookupError, OSError):
        return "UTC"


def _polars(pl: Any, label: Any, ticks: np.ndarray, missing: np.ndarray) -> Any:
    column = pl.Series(label, ticks)
    return column.zip_with(pl.Series(~missing), pl.Series(label, [None] * len(ticks), dtype=pl.Int64))
