create table customers (id integer primary key, name text);
create table orders (id integer primary key, customer integer, amount integer);
