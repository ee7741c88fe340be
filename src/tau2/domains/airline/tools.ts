/**
 * The airline's tools (SPEC section 12): wording, order of checks, and effects of the original, its oddities included.
 * Effects happen in the original's order, one by one, because those before a failure stay.
 */
import {
  type ExactObject,
  type ExactValue,
  isObject,
  pythonEquals,
  pythonStr,
  withEntry,
  withoutEntry,
} from "../../../base/exact.ts";
import type { Database, Table } from "../../database.ts";
import type { Toolkit } from "../../environment.ts";
import { dict, type FieldType, int, list, type Model, parseModel, record, str, union } from "../../model.ts";
import {
  add,
  atLeastZero,
  dictKey,
  hasKey,
  itemOf,
  iterate,
  lengthOf,
  lessThan,
  multiply,
  negate,
  noAttribute,
  subtract,
  sum,
  valueError,
} from "../../python.ts";
import { tableIndex } from "../../table-index.ts";
import { type BoundArguments, ModelResult, parameter, type Tool, tool } from "../../tool.ts";
import { calculate, transferToHumanAgents } from "../common-tools.ts";
import type { Flight, FlightOnDate, Payment, PaymentMethod, Reservation, ReservationFlight, User } from "./model.ts";
import * as models from "./model.ts";

/** The airline's clock stands still. */
const NOW = "2024-05-15T15:00:00";
const NEW_RESERVATION_IDS = ["HATHAT", "HATHAU", "HATHAV"];
const NEW_CERTIFICATE_IDS = ["certificate_3221322", "certificate_3221323", "certificate_3221324"];

/** The airline's view of its database. */
interface Airline {
  readonly flights: Table<Flight>;
  readonly users: Table<User>;
  readonly reservations: Table<Reservation & ExactObject>;
}

const view = (database: Database): Airline => ({
  flights: database.table("flights"),
  users: database.table("users"),
  reservations: database.table("reservations"),
});

// ---------------------------------------------------------------------------------------------------------------------
// Look-ups

function found<E extends ExactObject>(table: Table<E>, key: ExactValue, kind: string): E {
  const name = dictKey(key);
  const entity = name === null ? undefined : table.get(name);
  if (entity === undefined) throw valueError(`${kind} ${pythonStr(key)} not found`);
  return entity;
}

const userOf = ({ users }: Airline, id: ExactValue): User => found(users, id, "User");
const reservationOf = ({ reservations }: Airline, id: ExactValue) => found(reservations, id, "Reservation");
const flightOf = ({ flights }: Airline, number: ExactValue): Flight => found(flights, number, "Flight");

function flightOnDate(airline: Airline, number: ExactValue, date: ExactValue): FlightOnDate {
  const { dates } = flightOf(airline, number);
  if (!hasKey(dates, date)) throw valueError(`Flight ${pythonStr(number)} not found on date ${pythonStr(date)}`);
  return itemOf(dates, date) as unknown as FlightOnDate;
}

/** A flight that still sells, with a seat for everybody. */
function availableFlight(
  airline: Airline,
  leg: FlightLeg,
  cabin: ExactValue,
  seats: number,
): { flight: Flight; price: number } {
  const flight = flightOf(airline, leg.flight_number);
  const { available_seats, prices } = flightOnDate(airline, leg.flight_number, leg.date);
  if (available_seats === undefined || prices === undefined) {
    throw valueError(`Flight ${leg.flight_number} not available on date ${leg.date}`);
  }
  if (lessThan(itemOf(available_seats, cabin), seats))
    throw valueError(`Not enough seats on flight ${leg.flight_number}`);
  return { flight, price: itemOf(prices, cabin) as number };
}

/** A list of objects becomes models if all are objects; any other list stays as it is, and fails wherever it is used. */
function modelsIfObjects(target: Model, items: ExactValue): ExactValue {
  const all = iterate(items);
  return all.every(isObject) ? all.map((item) => parseModel(target, item)) : items;
}

interface FlightLeg {
  readonly flight_number: string;
  readonly date: string;
}

/** A leg as the loops of the original use it: an object that was not turned into a model has no attributes. */
function legOf(item: ExactValue, converted: boolean): FlightLeg {
  if (!converted) throw noAttribute(item, "flight_number");
  return item as unknown as FlightLeg;
}

// ---------------------------------------------------------------------------------------------------------------------
// Searching

interface Search {
  readonly date: string | ExactValue;
  /** null: any. */
  readonly origin: ExactValue;
  readonly destination: ExactValue;
  readonly leaveAfter?: string;
}

function search({ flights }: Airline, { date, origin, destination, leaveAfter }: Search): ExactObject[] {
  const results: ExactObject[] = [];
  for (const number of flightsBetween(flights, origin, destination)) {
    const flight = flights.get(number) as Flight;
    if (!hasKey(flight.dates, date)) continue;
    const onDate = itemOf(flight.dates, date) as unknown as FlightOnDate;
    if (onDate.status !== "available") continue;
    if (leaveAfter !== undefined && flight.scheduled_departure_time_est < leaveAfter) continue;
    results.push(directFlight(flight, onDate));
  }
  return results;
}

/** Numbers of flights, in the database's order; null is any place, and a value of another type names none. */
function flightsBetween(flights: Table<Flight>, origin: ExactValue, destination: ExactValue): Iterable<string> {
  return flightsByPlace(flights).get(origin)?.get(destination) ?? [];
}

const flightsByPlace = tableIndex((flights: ReadonlyMap<string, Flight>) => {
  const numbers = new Map<ExactValue, Map<ExactValue, string[]>>();
  for (const [number, flight] of flights) {
    for (const origin of [flight.origin, null]) {
      const there = numbers.get(origin) ?? new Map<ExactValue, string[]>();
      numbers.set(origin, there);
      for (const destination of [flight.destination, null])
        there.set(destination, [...(there.get(destination) ?? []), number]);
    }
  }
  return numbers;
});

/** Made once per record of a flight's day, so that its text is, too. */
const directFlights = new WeakMap<FlightOnDate, ExactObject>();

function directFlight(flight: Flight, onDate: FlightOnDate): ExactObject {
  const known = directFlights.get(onDate) ?? directFlightOf(flight, onDate);
  directFlights.set(onDate, known);
  return known;
}

function directFlightOf(flight: Flight, { available_seats, prices }: FlightOnDate): ExactObject {
  return {
    flight_number: flight.flight_number,
    origin: flight.origin,
    destination: flight.destination,
    status: "available",
    scheduled_departure_time_est: flight.scheduled_departure_time_est,
    scheduled_arrival_time_est: flight.scheduled_arrival_time_est,
    date: null,
    available_seats: available_seats ?? {},
    prices: prices ?? {},
  };
}

function searchOneStop(
  airline: Airline,
  { origin, destination, date }: BoundArguments<"origin" | "destination" | "date">,
): ModelResult[][] {
  return search(airline, { date, origin, destination: null }).flatMap((first) => {
    const arrival = first.scheduled_arrival_time_est as string;
    const secondDate = arrival.includes("+1") ? dayAfter(date as string) : (date as string);
    const seconds = search(airline, {
      date: secondDate,
      origin: first.destination as string,
      destination,
      leaveAfter: arrival,
    });
    return seconds.map((second) => [
      new ModelResult({ ...first, date }),
      new ModelResult({ ...second, date: secondDate }),
    ]);
  });
}

/** The original's next day: always in May 2024, and not padded. */
function dayAfter(date: string): string {
  const day = date.slice(-2);
  if (!/^\s*[+-]?\d+\s*$/.test(day))
    throw valueError(`invalid literal for int() with base 10: ${JSON.stringify(day).replaceAll('"', "'")}`);
  return `2024-05-${Number(day) + 1}`;
}

// ---------------------------------------------------------------------------------------------------------------------
// Paying

function setPaymentMethod({ users }: Airline, user_id: string, id: string, method: PaymentMethod & ExactObject): void {
  const user = users.get(user_id) as User;
  users.set(user_id, {
    ...user,
    payment_methods: withEntry(user.payment_methods, id, method) as User["payment_methods"],
  });
}

function deduct(airline: Airline, user_id: string, id: string, amount: ExactValue): void {
  const method = itemOf((airline.users.get(user_id) as User).payment_methods, id) as PaymentMethod & ExactObject;
  setPaymentMethod(airline, user_id, id, {
    ...method,
    amount: subtract(method.amount as ExactValue, amount, "-="),
  } as PaymentMethod & ExactObject);
}

/** Takes the price of a change from a credit or gift card (a negative price is paid out); null: nothing to pay. */
function payForUpdate(airline: Airline, user_id: string, payment_id: ExactValue, price: ExactValue): Payment | null {
  const user = userOf(airline, user_id);
  if (!hasKey(user.payment_methods, payment_id)) throw valueError("Payment method not found");
  const id = payment_id as string;
  const method = itemOf(user.payment_methods, id) as unknown as PaymentMethod;
  if (method.source === "certificate") throw valueError("Certificate cannot be used to update reservation");
  if (method.source === "gift_card") {
    if (lessThan(method.amount as ExactValue, price)) throw valueError("Gift card balance is not enough");
    deduct(airline, user_id, id, price);
  }
  return pythonEquals(price, 0) ? null : (parseModel(models.payment, { payment_id: id, amount: price }) as Payment);
}

/** Stores a reservation with what the change cost in its payment history. */
function updated(
  airline: Airline,
  reservation: Reservation & ExactObject,
  paid: Payment | null,
  changes: ExactObject,
): ModelResult {
  const payment_history = paid === null ? reservation.payment_history : [...reservation.payment_history, paid];
  const changed = { ...reservation, payment_history, ...changes } as Reservation & ExactObject;
  airline.reservations.set(reservation.reservation_id, changed);
  return new ModelResult(changed);
}

// ---------------------------------------------------------------------------------------------------------------------
// Booking

type Booking = BoundArguments<
  | "user_id"
  | "origin"
  | "destination"
  | "flight_type"
  | "cabin"
  | "flights"
  | "passengers"
  | "payment_methods"
  | "total_baggages"
  | "nonfree_baggages"
  | "insurance"
>;

function book(airline: Airline, booking: Booking): ModelResult {
  const flights = modelsIfObjects(models.flightInfo, booking.flights);
  const passengers = modelsIfObjects(models.passenger, booking.passengers);
  const payments = modelsIfObjects(models.payment, booking.payment_methods);
  const user = userOf(airline, booking.user_id);
  const reservation = newReservation(airline, booking, passengers, payments);
  const seats = lengthOf(passengers);
  const legs = iterate(flights).map((item) =>
    bookedLeg(airline, legOf(item, flights !== booking.flights), booking.cabin, seats),
  );

  const fares = legs.reduce((total, { price }) => total + price * seats, 0);
  const insured = booking.insurance === "yes" ? fares + 30 * seats : fares;
  const price = add(insured, multiply(50, booking.nonfree_baggages), "+=");
  const paid = iterate(payments) as unknown as readonly Payment[];
  checkPayments(user, paid, price);

  for (const payment of paid) settle(airline, user.user_id, payment);
  for (const leg of legs) takeSeats(airline, leg, booking.cabin as string, seats);
  const booked = { ...reservation, flights: legs } as unknown as Reservation & ExactObject;
  airline.reservations.set(booked.reservation_id, booked);
  const payer = airline.users.get(user.user_id) as User;
  airline.users.set(user.user_id, { ...payer, reservations: [...payer.reservations, booked.reservation_id] });
  return new ModelResult(booked);
}

function newReservation(
  { reservations }: Airline,
  booking: Booking,
  passengers: ExactValue,
  payments: ExactValue,
): ExactObject {
  const reservation_id = NEW_RESERVATION_IDS.find((id) => !reservations.has(id));
  if (reservation_id === undefined) throw valueError("Too many reservations");
  const { payment_methods: _, ...fields } = booking;
  return parseModel(models.reservation, {
    ...fields,
    reservation_id,
    flights: [],
    passengers,
    payment_history: payments,
    created_at: NOW,
  });
}

function bookedLeg(airline: Airline, leg: FlightLeg, cabin: ExactValue, seats: number): ReservationFlight {
  const { flight, price } = availableFlight(airline, leg, cabin, seats);
  return {
    flight_number: leg.flight_number,
    origin: flight.origin,
    destination: flight.destination,
    date: leg.date,
    price,
  };
}

function checkPayments(user: User, payments: readonly Payment[], price: ExactValue): void {
  for (const { payment_id, amount } of payments) {
    if (!hasKey(user.payment_methods, payment_id)) throw valueError(`Payment method ${payment_id} not found`);
    const method = itemOf(user.payment_methods, payment_id) as unknown as PaymentMethod;
    if (method.source !== "credit_card" && lessThan(method.amount as ExactValue, amount)) {
      throw valueError(`Not enough balance in payment method ${payment_id}`);
    }
  }
  const paid = sum(payments.map(({ amount }) => amount));
  if (!pythonEquals(paid, price)) {
    throw valueError(`Payment amount does not add up, total price is ${pythonStr(price)}, but paid ${pythonStr(paid)}`);
  }
}

/** Gift cards are reduced, certificates used up; one named twice is missing the second time, which fails halfway. */
function settle(airline: Airline, user_id: string, { payment_id, amount }: Payment): void {
  const user = airline.users.get(user_id) as User;
  const { source } = itemOf(user.payment_methods, payment_id) as unknown as PaymentMethod;
  if (source === "gift_card") deduct(airline, user_id, payment_id, amount);
  if (source === "certificate") {
    airline.users.set(user_id, {
      ...user,
      payment_methods: withoutEntry(user.payment_methods, payment_id) as User["payment_methods"],
    });
  }
}

function takeSeats(
  { flights }: Airline,
  { flight_number, date }: ReservationFlight,
  cabin: string,
  seats: number,
): void {
  const flight = flights.get(flight_number) as Flight;
  const onDate = flight.dates[date] as FlightOnDate & ExactObject;
  const available_seats = { ...onDate.available_seats, [cabin]: (onDate.available_seats?.[cabin] ?? 0) - seats };
  flights.set(flight_number, {
    ...flight,
    dates: withEntry(flight.dates, date, { ...onDate, available_seats }) as Flight["dates"],
  });
}

// ---------------------------------------------------------------------------------------------------------------------
// Changing and cancelling

function cancel(airline: Airline, { reservation_id }: BoundArguments<"reservation_id">): ModelResult {
  const reservation = reservationOf(airline, reservation_id);
  const refunds = reservation.payment_history.map(({ payment_id, amount }) => ({ payment_id, amount: negate(amount) }));
  return updated(airline, reservation, null, {
    payment_history: [...reservation.payment_history, ...refunds],
    status: "cancelled",
  });
}

function updateBaggages(
  airline: Airline,
  args: BoundArguments<"reservation_id" | "total_baggages" | "nonfree_baggages" | "payment_id">,
): ModelResult {
  const { total_baggages, nonfree_baggages } = args;
  const reservation = reservationOf(airline, args.reservation_id);
  const user = userOf(airline, reservation.user_id);
  const price = multiply(50, atLeastZero(subtract(nonfree_baggages, reservation.nonfree_baggages)));
  const paid = payForUpdate(airline, user.user_id, args.payment_id, price);
  return updated(airline, reservation, paid, { total_baggages, nonfree_baggages });
}

function updateFlights(
  airline: Airline,
  args: BoundArguments<"reservation_id" | "cabin" | "flights" | "payment_id">,
): ModelResult {
  const wanted = modelsIfObjects(models.flightInfo, args.flights);
  const reservation = reservationOf(airline, args.reservation_id);
  const user = userOf(airline, reservation.user_id);
  const seats = lengthOf(reservation.passengers);
  const flights = iterate(wanted).map((item) => {
    const leg = legOf(item, wanted !== args.flights);
    return keptLeg(reservation, leg, args.cabin) ?? bookedLeg(airline, leg, args.cabin, seats);
  });
  const priceOf = (legs: readonly ReservationFlight[]): number =>
    legs.reduce((total, { price }) => total + price, 0) * seats;
  const paid = payForUpdate(airline, user.user_id, args.payment_id, priceOf(flights) - priceOf(reservation.flights));
  return updated(airline, reservation, paid, { flights, cabin: args.cabin });
}

/** A leg of the reservation that stays, at the price it was booked for. */
function keptLeg({ flights, cabin }: Reservation, leg: FlightLeg, newCabin: ExactValue): ReservationFlight | undefined {
  if (!pythonEquals(newCabin, cabin)) return undefined;
  return flights.find(({ flight_number, date }) => flight_number === leg.flight_number && date === leg.date);
}

function updatePassengers(airline: Airline, args: BoundArguments<"reservation_id" | "passengers">): ModelResult {
  const passengers = modelsIfObjects(models.passenger, args.passengers);
  const reservation = reservationOf(airline, args.reservation_id);
  if (lengthOf(passengers) !== lengthOf(reservation.passengers))
    throw valueError("Number of passengers does not match");
  return updated(airline, reservation, null, { passengers });
}

function sendCertificate(airline: Airline, { user_id, amount }: BoundArguments<"user_id" | "amount">): string {
  const user = userOf(airline, user_id);
  const id = NEW_CERTIFICATE_IDS.find((candidate) => !Object.hasOwn(user.payment_methods, candidate));
  if (id === undefined) throw valueError("Too many certificates");
  const certificate = parseModel(models.certificate, { source: "certificate", id, amount });
  setPaymentMethod(airline, user.user_id, id, certificate as PaymentMethod & ExactObject);
  return `Certificate ${id} added to user ${pythonStr(user_id)} with amount ${pythonStr(amount)}.`;
}

// ---------------------------------------------------------------------------------------------------------------------
// Definitions, in the original's order

const anyObject = dict({ kind: "any" });
const listOf = (target: Model): FieldType => list(union(record(target), anyObject));

const AIRPORTS: Readonly<Record<string, string>> = {
  SFO: "San Francisco",
  JFK: "New York",
  LAX: "Los Angeles",
  ORD: "Chicago",
  DFW: "Dallas",
  DEN: "Denver",
  SEA: "Seattle",
  ATL: "Atlanta",
  MIA: "Miami",
  BOS: "Boston",
  PHX: "Phoenix",
  IAH: "Houston",
  LAS: "Las Vegas",
  MCO: "Orlando",
  EWR: "Newark",
  CLT: "Charlotte",
  MSP: "Minneapolis",
  DTW: "Detroit",
  PHL: "Philadelphia",
  LGA: "LaGuardia",
};

const STORED_PAYMENT_ID =
  "The payment id stored in user profile, such as 'credit_card_7815826', 'gift_card_7815826', 'certificate_7815826'.";
const originParameter = parameter(str, "The origin city airport in three letters, such as 'JFK'.");
const destinationParameter = parameter(str, "The destination city airport in three letters, such as 'LAX'.");

const tools: readonly Tool<Airline>[] = [
  tool({
    name: "book_reservation",
    kind: "write",
    description: "Book a reservation.",
    parameters: {
      user_id: parameter(str, "The ID of the user to book the reservation such as 'sara_doe_496'`."),
      origin: parameter(str, "The IATA code for the origin city such as 'SFO'."),
      destination: parameter(str, "The IATA code for the destination city such as 'JFK'."),
      flight_type: parameter(models.flightType, "The type of flight such as 'one_way' or 'round_trip'."),
      cabin: parameter(models.cabinClass, "The cabin class such as 'basic_economy', 'economy', or 'business'."),
      flights: parameter(
        listOf(models.flightInfo),
        "An array of objects containing details about each piece of flight.",
      ),
      passengers: parameter(listOf(models.passenger), "An array of objects containing details about each passenger."),
      payment_methods: parameter(
        listOf(models.payment),
        "An array of objects containing details about each payment method.",
      ),
      total_baggages: parameter(int, "The total number of baggage items to book the reservation."),
      nonfree_baggages: parameter(int, "The number of non-free baggage items to book the reservation."),
      insurance: parameter(models.insurance, "Whether the reservation has insurance."),
    },
    run: book,
  }),
  calculate,
  tool({
    name: "cancel_reservation",
    kind: "write",
    description: "Cancel the whole reservation.",
    parameters: { reservation_id: parameter(str, "The reservation ID, such as 'ZFA04Y'.") },
    run: cancel,
  }),
  tool({
    name: "get_reservation_details",
    kind: "read",
    description: "Get the details of a reservation.",
    parameters: { reservation_id: parameter(str, "The reservation ID, such as '8JX2WO'.") },
    run: (airline: Airline, { reservation_id }) => new ModelResult(reservationOf(airline, reservation_id)),
  }),
  tool({
    name: "get_user_details",
    kind: "read",
    description: "Get the details of a user, including their reservations.",
    parameters: { user_id: parameter(str, "The user ID, such as 'sara_doe_496'.") },
    run: (airline: Airline, { user_id }) => new ModelResult(userOf(airline, user_id)),
  }),
  tool({
    name: "list_all_airports",
    kind: "read",
    description: "Returns a list of all available airports.",
    parameters: {},
    run: () => Object.entries(AIRPORTS).map(([iata, city]) => new ModelResult({ iata, city })),
  }),
  tool({
    name: "search_direct_flight",
    kind: "read",
    description: "Search for direct flights between two cities on a specific date.",
    parameters: {
      origin: originParameter,
      destination: destinationParameter,
      date: parameter(str, "The date of the flight in the format 'YYYY-MM-DD', such as '2024-01-01'."),
    },
    run: (airline: Airline, args) => search(airline, args).map((flight) => new ModelResult(flight)),
  }),
  tool({
    name: "search_onestop_flight",
    kind: "read",
    description: "Search for one-stop flights between two cities on a specific date.",
    parameters: {
      origin: originParameter,
      destination: destinationParameter,
      date: parameter(str, "The date of the flight in the format 'YYYY-MM-DD', such as '2024-05-01'."),
    },
    run: searchOneStop,
  }),
  tool({
    name: "send_certificate",
    kind: "write",
    description: "Send a certificate to a user. Be careful!",
    parameters: {
      user_id: parameter(str, "The ID of the user to book the reservation, such as 'sara_doe_496'."),
      amount: parameter(int, "The amount of the certificate to send."),
    },
    run: sendCertificate,
  }),
  transferToHumanAgents,
  tool({
    name: "update_reservation_baggages",
    kind: "write",
    description: "Update the baggage information of a reservation.",
    parameters: {
      reservation_id: parameter(str, "The reservation ID, such as 'ZFA04Y'"),
      total_baggages: parameter(int, "The updated total number of baggage items included in the reservation."),
      nonfree_baggages: parameter(int, "The updated number of non-free baggage items included in the reservation."),
      payment_id: parameter(str, STORED_PAYMENT_ID),
    },
    run: updateBaggages,
  }),
  tool({
    name: "update_reservation_flights",
    kind: "write",
    description: "Update the flight information of a reservation.",
    parameters: {
      reservation_id: parameter(str, "The reservation ID, such as 'ZFA04Y'."),
      cabin: parameter(models.cabinClass, "The cabin class of the reservation"),
      flights: parameter(
        listOf(models.flightInfo),
        "An array of objects containing details about each piece of flight in the ENTIRE new reservation. Even if the a flight segment is not changed, it should still be included in the array.",
      ),
      payment_id: parameter(str, STORED_PAYMENT_ID),
    },
    run: updateFlights,
  }),
  tool({
    name: "update_reservation_passengers",
    kind: "write",
    description: "Update the passenger information of a reservation.",
    parameters: {
      reservation_id: parameter(str, "The reservation ID, such as 'ZFA04Y'."),
      passengers: parameter(listOf(models.passenger), "An array of objects containing details about each passenger."),
    },
    run: updatePassengers,
  }),
  tool({
    name: "get_flight_status",
    kind: "read",
    description: "Get the status of a flight.",
    parameters: {
      flight_number: parameter(str, "The flight number."),
      date: parameter(str, "The date of the flight."),
    },
    run: (airline: Airline, { flight_number, date }) => flightOnDate(airline, flight_number, date).status,
  }),
];

export const airlineToolkit: Toolkit<Airline> = {
  className: "AirlineTools",
  tools,
  functions: [],
  view,
  model: models.flightDb,
  tables: ["flights", "users", "reservations"],
};
