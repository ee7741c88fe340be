//! The date for `strftime_now`, in UTC and fixed when the template is loaded, so that a run does not change at midnight.
use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const SECONDS_PER_DAY: i64 = 86_400;

#[derive(Debug, Clone, Copy)]
pub struct Moment {
    seconds: i64,
}

pub fn now() -> Moment {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs() as i64);
    Moment { seconds }
}

impl Moment {
    /// The directives that chat templates use; others are printed as they stand.
    pub fn strftime(self, format: &str) -> String {
        let mut out = String::new();
        let mut characters = format.chars();
        while let Some(c) = characters.next() {
            match c {
                '%' => out.push_str(&self.directive(characters.next())),
                c => out.push(c),
            }
        }
        out
    }

    fn directive(self, directive: Option<char>) -> String {
        let days = self.seconds.div_euclid(SECONDS_PER_DAY);
        let second = self.seconds.rem_euclid(SECONDS_PER_DAY);
        let (year, month, day) = civil(days);
        let month_name = MONTHS[month as usize - 1];
        let weekday = WEEKDAYS[(days + 4).rem_euclid(7) as usize];
        match directive {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year.rem_euclid(100)),
            Some('m') => format!("{month:02}"),
            Some('B') => month_name.into(),
            Some('b') => month_name[..3].into(),
            Some('d') => format!("{day:02}"),
            Some('A') => weekday.into(),
            Some('a') => weekday[..3].into(),
            Some('H') => format!("{:02}", second / 3600),
            Some('M') => format!("{:02}", second / 60 % 60),
            Some('S') => format!("{:02}", second % 60),
            Some('%') => "%".into(),
            Some(other) => format!("%{other}"),
            None => "%".into(),
        }
    }
}

/// Year, month and day of a day since 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Right-hand sides are Python's `datetime.fromtimestamp(s, UTC).strftime(…)`.
    #[test]
    fn dates() {
        for (seconds, expected) in [
            (0, "Thu Thursday 01 Jan January 01 1970 70 00:00:00"),
            (951_827_696, "Tue Tuesday 29 Feb February 02 2000 00 12:34:56"),
            (1_721_952_000, "Fri Friday 26 Jul July 07 2024 24 00:00:00"),
            (4_102_444_799, "Thu Thursday 31 Dec December 12 2099 99 23:59:59"),
        ] {
            assert_eq!(Moment { seconds }.strftime("%a %A %d %b %B %m %Y %y %H:%M:%S"), expected);
        }
    }
}
