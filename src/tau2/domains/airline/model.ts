/** The airline's records, as the original declares them: order of fields, types, and the wording models see in schemas. */
import type { ExactValue, Float } from "../../../base/exact.ts";
import { dict, type FieldType, float, int, list, literal, model, optional, record, str, union } from "../../model.ts";

const described = (type: FieldType, description: string) => ({ type, description });

export const cabinClass = literal("business", "economy", "basic_economy");
export const flightType = literal("round_trip", "one_way");
export const insurance = literal("yes", "no");

// The records that tool parameters mention carry descriptions; those of the others appear nowhere.
export const flightInfo = model("FlightInfo", {
  flight_number: described(str, "Flight number, such as 'HAT001'."),
  date: described(str, "The date for the flight in the format 'YYYY-MM-DD', such as '2024-05-01'."),
});
export const passenger = model("Passenger", {
  first_name: described(str, "Passenger's first name"),
  last_name: described(str, "Passenger's last name"),
  dob: described(str, "Date of birth in YYYY-MM-DD format"),
});
export const payment = model("Payment", {
  payment_id: described(str, "Unique identifier for the payment"),
  amount: described(int, "Payment amount in dollars"),
});

const creditCard = model("CreditCard", { source: literal("credit_card"), id: str, brand: str, last_four: str });
const giftCard = model("GiftCard", { source: literal("gift_card"), id: str, amount: float });
export const certificate = model("Certificate", { source: literal("certificate"), id: str, amount: float });

const perCabin = dict(int, ["business", "economy", "basic_economy"]);
const estimated = { estimated_departure_time_est: str, estimated_arrival_time_est: str };
const flightStatuses = [
  model("FlightDateStatusAvailable", { status: literal("available"), available_seats: perCabin, prices: perCabin }),
  model("FlightDateStatusLanded", {
    status: literal("landed"),
    actual_departure_time_est: str,
    actual_arrival_time_est: str,
  }),
  model("FlightDateStatusCancelled", { status: literal("cancelled") }),
  model("FlightDateStatusDelayed", { status: literal("delayed"), ...estimated }),
  model("FlightDataStatusFlying", {
    status: literal("flying"),
    actual_departure_time_est: str,
    estimated_arrival_time_est: str,
  }),
  model("FlightDataStatusOnTime", { status: literal("on time"), ...estimated }),
];

const flight = model("Flight", {
  flight_number: str,
  origin: str,
  destination: str,
  scheduled_departure_time_est: str,
  scheduled_arrival_time_est: str,
  dates: dict(union(...flightStatuses.map(record))),
});

export const reservationFlight = model("ReservationFlight", {
  flight_number: str,
  origin: str,
  destination: str,
  date: str,
  price: int,
});

export const reservation = model("Reservation", {
  reservation_id: str,
  user_id: str,
  origin: str,
  destination: str,
  flight_type: flightType,
  cabin: cabinClass,
  flights: list(record(reservationFlight)),
  passengers: list(record(passenger)),
  payment_history: list(record(payment)),
  created_at: str,
  total_baggages: int,
  nonfree_baggages: int,
  insurance,
  status: { type: optional(literal("cancelled")), default: null },
});

const user = model("User", {
  user_id: str,
  name: record(model("Name", { first_name: str, last_name: str })),
  address: record(
    model("Address", {
      address1: str,
      address2: { type: optional(str), default: null },
      city: str,
      country: str,
      state: str,
      zip: str,
    }),
  ),
  email: str,
  dob: str,
  payment_methods: dict(union(record(creditCard), record(giftCard), record(certificate))),
  saved_passengers: list(record(passenger)),
  membership: literal("gold", "silver", "regular"),
  reservations: list(str),
});

export const flightDb = model(
  "FlightDB",
  { flights: dict(record(flight)), users: dict(record(user)), reservations: dict(record(reservation)) },
  "forbid",
);

// What the tools read of these records. Assignments are not validated, so a reservation's later fields can hold anything.

type Dict<T extends ExactValue> = { readonly [key: string]: T };

export type FlightOnDate = {
  readonly status: string;
  readonly available_seats?: Dict<number>;
  readonly prices?: Dict<number>;
};
export type Flight = {
  readonly flight_number: string;
  readonly origin: string;
  readonly destination: string;
  readonly scheduled_departure_time_est: string;
  readonly scheduled_arrival_time_est: string;
  readonly dates: Dict<FlightOnDate & Dict<ExactValue>>;
};
export type PaymentMethod = { readonly source: string; readonly id: string; readonly amount?: Float };
export type User = {
  readonly user_id: string;
  readonly payment_methods: Dict<PaymentMethod & Dict<ExactValue>>;
  readonly reservations: readonly string[];
};
export type Payment = { readonly payment_id: string; readonly amount: ExactValue };
export type ReservationFlight = {
  readonly flight_number: string;
  readonly origin: string;
  readonly destination: string;
  readonly date: string;
  readonly price: number;
};
export type Reservation = {
  readonly reservation_id: string;
  readonly user_id: string;
  readonly flights: readonly ReservationFlight[];
  readonly payment_history: readonly Payment[];
  readonly passengers: ExactValue;
  readonly cabin: ExactValue;
  readonly total_baggages: ExactValue;
  readonly nonfree_baggages: ExactValue;
};
